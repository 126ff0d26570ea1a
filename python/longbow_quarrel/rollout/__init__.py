"""Staged rollout of a cache strategy: a candidate beside a baseline, watched and rolled back.

``spec`` reads what is asked for, ``evidence`` counts what was seen, ``guard`` judges it, ``state``
is the file that survives a restart, ``control`` ties these together for one server; ``engine``
serves requests on two arms and ``shadow`` computes some of them on both. docs/rollout.md explains
the decisions.
"""

from __future__ import annotations
