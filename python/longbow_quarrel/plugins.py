"""Loads Python files that register cache strategies and eviction policies of their own."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterable
from pathlib import Path

from longbow_quarrel.errors import QuarrelError, UsageError


def load_plugins(files: Iterable[str | Path]) -> None:
    """Run each file, which calls ``register_strategy`` or ``register_eviction_policy``.

    A file that was loaded before is left alone.

    Raises:
        UsageError: a file cannot be read, fails, or registers a name that is taken.
    """
    for file in files:
        _load(Path(file).resolve())


def _load(path: Path) -> None:
    name = f"longbow_quarrel_plugin_{path.stem}"
    loaded = sys.modules.get(name)
    if loaded is not None and loaded.__file__ == str(path):
        return
    spec = importlib.util.spec_from_file_location(name, path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise UsageError(f"The plug-in {path} is no Python file; give a .py file.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look their module up
    try:
        spec.loader.exec_module(module)
    except QuarrelError as e:
        del sys.modules[name]
        raise UsageError(f"The plug-in {path} cannot be loaded: {e}") from e
    except Exception as e:
        del sys.modules[name]
        reason = " ".join(str(e).split()).rstrip(".")
        raise UsageError(
            f"The plug-in {path} cannot be loaded: {type(e).__name__}: {reason}."
        ) from e
