"""From what the engine made to what OpenAI's interface calls an answer."""

from __future__ import annotations

import json
import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from longbow_quarrel.engine_thread import Update
from longbow_quarrel.request import Request, TokenLogprobs
from longbow_quarrel.server.protocol import Json
from longbow_quarrel.tokenizer import Tokenizer

_LOWEST_LOGPROB = -9999.0  # JSON has no infinity
_encode = json.JSONEncoder(separators=(",", ":")).encode  # made once: a stream needs it per token
DONE = b"data: [DONE]\n\n"


@dataclass
class Answer(ABC):
    """What the two kinds of completion have in common.

    Attributes:
        with_usage: whether a stream ends with the numbers of tokens.
    """

    model: str
    tokenizer: Tokenizer
    groups: list[list[Request]]
    with_logprobs: bool
    with_usage: bool
    prefix: str
    object: str
    chunk_object: str
    created: int = field(default_factory=lambda: int(time.time()))

    def __post_init__(self) -> None:
        self.id = f"{self.prefix}-{secrets.token_hex(12)}"
        self.requests = [request for group in self.groups for request in group]
        self._index = {request: i for i, request in enumerate(self.requests)}
        self._offsets = dict.fromkeys(self.requests, 0)
        head = {
            "id": self.id,
            "object": self.chunk_object,
            "created": self.created,
            "model": self.model,
        }
        self._head = f"data: {_encode(head)[:-1]},"  # of every chunk
        self._tail = ',"usage":null}\n\n' if self.with_usage else "}\n\n"

    # ---- All at once ------------------------------------------------------------------------

    def whole(self) -> Json:
        """The response when every text has ended."""
        return {
            "id": self.id,
            "object": self.object,
            "created": self.created,
            "model": self.model,
            "choices": [self._whole_choice(r, i) for r, i in self._index.items()],
            "usage": self._usage(),
            "prefix_cache": self._prefix_cache(),
        }

    # ---- Piece by piece ---------------------------------------------------------------------

    def opening(self) -> bytes:
        """Events before the first piece."""
        return b""

    def events(self, updates: Sequence[Update]) -> bytes:
        """Server-sent events of what is new."""
        return "".join([event for update in updates for event in self._events_of(update)]).encode()

    def closing(self) -> bytes:
        """Events after the last piece."""
        if not self.with_usage:
            return DONE
        totals = {"choices": [], "prefix_cache": self._prefix_cache(), "usage": self._usage()}
        return f"{self._head}{_encode(totals)[1:]}\n\n".encode() + DONE

    def _events_of(self, update: Update) -> list[str]:
        index = self._index[update.request]
        logprobs = self._logprobs(update.request, update.logprobs)
        events: list[str] = []
        if update.text or logprobs is not None:
            events.append(self._chunk({"choices": [self._piece(index, update.text, logprobs)]}))
        if update.finish_reason is not None:
            end = self._piece(index, "", None) | {"finish_reason": update.finish_reason}
            found = _found(update.request)
            events.append(
                self._chunk({"choices": [self._without_text(end)], "prefix_cache": found})
            )
        return events

    def _chunk(self, content: Json) -> str:
        """An event; its head and tail are the same in all of them and written but once."""
        return f"{self._head}{_encode(content)[1:-1]}{self._tail}"

    # ---- Parts ------------------------------------------------------------------------------

    @abstractmethod
    def _whole_choice(self, request: Request, index: int) -> Json: ...

    @abstractmethod
    def _piece(self, index: int, text: str, logprobs: Json | None) -> Json: ...

    def _without_text(self, choice: Json) -> Json:
        return choice

    @abstractmethod
    def _logprobs(self, request: Request, entries: list[TokenLogprobs]) -> Json | None: ...

    def _usage(self) -> Json:
        n_prompt = sum(leader.n_prompt for leader, *_ in self.groups)
        n_output = sum(r.n_tokens - r.n_prompt for r in self.requests)
        return {
            "prompt_tokens": n_prompt,
            "completion_tokens": n_output,
            "total_tokens": n_prompt + n_output,
            "prompt_tokens_details": {
                "cached_tokens": sum(leader.cached_tokens for leader, *_ in self.groups)
            },
        }

    def _prefix_cache(self) -> Json:
        """Of the first prompt that could have been cached better, if there are several."""
        leaders = [leader for leader, *_ in self.groups]
        worst = min(leaders, key=lambda r: r.cached_tokens / r.n_prompt)
        cached = sum(leader.cached_tokens for leader in leaders)
        return _found(worst) | {"cached_tokens": cached}


class ChatAnswer(Answer):
    """``/v1/chat/completions``."""

    def opening(self) -> bytes:
        delta = {"delta": {"role": "assistant", "content": ""}}
        chunks = [self._chunk({"choices": [self._choice(i, delta)]}) for i in self._index.values()]
        return "".join(chunks).encode()

    def _whole_choice(self, request: Request, index: int) -> Json:
        message = {"role": "assistant", "content": request.text}
        choice = self._choice(index, {"message": message})
        choice["logprobs"] = self._logprobs(request, request.logprobs)
        return choice | {"finish_reason": request.finish_reason}

    def _piece(self, index: int, text: str, logprobs: Json | None) -> Json:
        return self._choice(index, {"delta": {"content": text}}) | {"logprobs": logprobs}

    def _without_text(self, choice: Json) -> Json:
        return choice | {"delta": {}}

    def _choice(self, index: int, content: Json) -> Json:
        return {"index": index, **content, "logprobs": None, "finish_reason": None}

    def _logprobs(self, _request: Request, entries: list[TokenLogprobs]) -> Json | None:
        if not self.with_logprobs:
            return None
        content = [
            self._entry(e.token_id, e.logprob)
            | {"top_logprobs": [self._entry(i, logprob) for i, logprob in e.top]}
            for e in entries
        ]
        return {"content": content}

    def _entry(self, token_id: int, logprob: float) -> Json:
        data = self.tokenizer.token_bytes(token_id)
        token = data.decode("utf-8", "replace")
        return {"token": token, "logprob": max(logprob, _LOWEST_LOGPROB), "bytes": list(data)}


class TextAnswer(Answer):
    """``/v1/completions``."""

    def _whole_choice(self, request: Request, index: int) -> Json:
        choice = self._piece(index, request.text, self._logprobs(request, request.logprobs))
        return choice | {"finish_reason": request.finish_reason}

    def _piece(self, index: int, text: str, logprobs: Json | None) -> Json:
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": None}

    def _logprobs(self, request: Request, entries: list[TokenLogprobs]) -> Json | None:
        if not self.with_logprobs:
            return None
        tokens = [self._token(e.token_id) for e in entries]
        offsets = []
        for token in tokens:
            offsets.append(self._offsets[request])
            self._offsets[request] += len(token)
        tops = [
            {self._token(i): max(logprob, _LOWEST_LOGPROB) for i, logprob in e.top} for e in entries
        ]
        return {
            "tokens": tokens,
            "token_logprobs": [max(e.logprob, _LOWEST_LOGPROB) for e in entries],
            "top_logprobs": tops if any(tops) else None,
            "text_offset": offsets,
        }

    def _token(self, token_id: int) -> str:
        """Its text; where that is no whole character its bytes, so that tokens stay distinct."""
        data = self.tokenizer.token_bytes(token_id)
        try:
            return data.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


AnswerFactory = Callable[[list[list[Request]]], Answer]


def _found(request: Request) -> Json:
    return {"cached_tokens": request.cached_tokens, "miss_reason": request.miss_reason}


def error_event(body: Json) -> bytes:
    """An error in the middle of a stream, whose status has gone out already."""
    return f"data: {_encode(body)}\n\n".encode() + DONE
