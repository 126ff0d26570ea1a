"""From the fields of a request to sampling parameters; OpenAI's defaults."""

from __future__ import annotations

from longbow_quarrel.errors import UsageError
from longbow_quarrel.sampling import SamplingParams
from longbow_quarrel.server.protocol import ChatRequest, CompletionRequest, SamplingFields

_COMPLETION_TOKENS = 16
_AS_MANY_AS_FIT = 2**31 - 1


def of_chat(body: ChatRequest) -> SamplingParams:
    """Raises UsageError for fields that contradict each other."""
    if body.top_logprobs is not None and not body.logprobs:
        raise UsageError("top_logprobs needs logprobs to be true.")
    wanted = body.max_completion_tokens or body.max_tokens or _AS_MANY_AS_FIT
    return _sampling(body, wanted, (body.top_logprobs or 0) if body.logprobs else None)


def of_completion(body: CompletionRequest) -> SamplingParams:
    """Raises UsageError for values that make no sense."""
    return _sampling(body, body.max_tokens or _COMPLETION_TOKENS, body.logprobs)


def asked_tokens(body: ChatRequest | CompletionRequest) -> int:
    """Tokens that a text must have room for: those explicitly asked for."""
    explicit = body.max_tokens
    if isinstance(body, ChatRequest):
        explicit = body.max_completion_tokens or explicit
    return explicit or 1


def _sampling(body: SamplingFields, max_tokens: int, logprobs: int | None) -> SamplingParams:
    return SamplingParams(
        max_tokens=max_tokens,
        temperature=_or(body.temperature, 1.0),
        top_k=body.top_k or 0,
        top_p=_or(body.top_p, 1.0),
        min_p=body.min_p or 0.0,
        repetition_penalty=body.repetition_penalty or 1.0,
        presence_penalty=body.presence_penalty or 0.0,
        frequency_penalty=body.frequency_penalty or 0.0,
        penalty_window=-1,
        seed=None if body.seed is None else body.seed % 2**64,
        stop=() if body.stop is None else body.stop,
        stop_token_ids=body.stop_token_ids or (),
        ignore_eos=body.ignore_eos,
        logit_bias=_biases(body.logit_bias or {}),
        logprobs=logprobs,
        n=body.n or 1,
    )


def _or(value: float | None, default: float) -> float:
    return default if value is None else value


def _biases(by_name: dict[str, float]) -> dict[int, float]:
    for name in by_name:
        if not (name.isascii() and name.isdecimal()):
            raise UsageError(f"logit_bias: {name!r} is no token id; use whole numbers as strings.")
    return {int(name): bias for name, bias in by_name.items()}
