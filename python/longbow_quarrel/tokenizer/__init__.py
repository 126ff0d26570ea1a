"""Tokenizers read from GGUF metadata: text to token ids and back, streaming included."""

from __future__ import annotations

from longbow_quarrel.tokenizer.stream import StreamDecoder
from longbow_quarrel.tokenizer.tokenizer import Tokenizer

__all__ = ["StreamDecoder", "Tokenizer"]
