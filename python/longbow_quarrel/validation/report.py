"""The report of a validation: Markdown, HTML, JSON and plots."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from longbow_quarrel.errors import UsageError
from longbow_quarrel.validation.results import Check, Report

_MARKS = {"holds": "holds", "broken": "BROKEN", "skipped": "skipped"}


def write(report: Report, prefix: Path) -> list[Path]:
    """PREFIX.json, PREFIX.md, PREFIX.html and a PREFIX-NAME.svg for each plot.

    Raises:
        UsageError: they cannot be written.
    """
    from jinja2 import Environment, PackageLoader

    from longbow_quarrel.validation import plots

    environment = Environment(
        loader=PackageLoader("longbow_quarrel.validation", "templates"),
        autoescape=lambda name: name is not None and ".html" in name,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    pictures = plots.draw(report)
    shown = {
        "report": report,
        "mark": lambda check: _MARKS[check.status],
        "table": table,
        "pictures": pictures,
        "stem": prefix.name,
    }
    files = {
        ".json": json.dumps(as_dict(report), indent=1) + "\n",
        ".md": environment.get_template("report.md.jinja").render(shown),
        ".html": environment.get_template("report.html.jinja").render(shown),
        **{f"-{name}.svg": picture for name, picture in pictures.items()},
    }
    written = []
    try:
        prefix.parent.mkdir(parents=True, exist_ok=True)
        for ending, content in files.items():
            path = prefix.with_name(prefix.name + ending)
            path.write_text(content, encoding="utf-8")
            written.append(path)
    except OSError as e:
        raise UsageError(f"{prefix} cannot be written ({e.strerror}); choose with -o.") from None
    return written


def as_dict(report: Report) -> dict[str, Any]:
    """All of it as plain data."""
    return {**dataclasses.asdict(report), "broken": report.broken}


def table(check: Check) -> list[list[str]]:
    """Head and rows of a check's figures, as text; empty without figures."""
    if not check.rows:
        return []
    return [list(check.rows[0]), *([_text(v) for v in row.values()] for row in check.rows)]


def _text(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
