"""The HTTP server: OpenAI's interface in front of an engine in its own thread."""

from __future__ import annotations

from longbow_quarrel.server.app import create_app

__all__ = ["create_app"]
