"""``python -m longbow_quarrel.cli`` is ``longbow-quarrel``."""

from __future__ import annotations

import sys

from longbow_quarrel.cli import main

sys.exit(main())
