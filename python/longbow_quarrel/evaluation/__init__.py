"""Measures of a model's quality."""

from __future__ import annotations
