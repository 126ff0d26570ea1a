"""What a request asks of sampling, and the native sampler made from it."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Any

from longbow_quarrel import _core
from longbow_quarrel.errors import UsageError
from longbow_quarrel.stop import StopMatcher

_MAX_SEED = 2**64 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How the tokens of one request are drawn and when it ends.

    Steps, in the order of llama.cpp's default chain: logit bias, penalties, top-k, top-p, min-p,
    temperature, draw; top-p and min-p look at probabilities before temperature. Values out of
    range raise :class:`UsageError`.

    Attributes:
        max_tokens: tokens to generate at most; at least 1.
        temperature: logits are divided by it; 0 takes the likeliest token (greedy).
        top_k: keep the k likeliest tokens; 0 is off.
        top_p: keep the likeliest tokens that together reach this probability, above 0 and up to 1;
            1 is off (nucleus sampling, Holtzman et al. 2019).
        min_p: keep tokens with at least this share of the best token's probability, 0 to 1; 0 is
            off (Nguyen et al. 2024).
        repetition_penalty: divides positive and multiplies negative logits of tokens seen (CTRL,
            Keskar et al. 2019); above 0, 1 is off.
        presence_penalty: subtracted once from the logit of a token seen.
        frequency_penalty: subtracted once per time that a token was seen.
        penalty_window: how many of the last tokens, prompt included, the penalties see; 0 is
            none, -1 all.
        seed: 0 to 2**64 - 1; the same seed gives the same text. None takes a random one.
        stop: strings that end the text (it is cut before them); one string or several.
        stop_token_ids: tokens that end the text.
        ignore_eos: go on after the model's end-of-text token.
        logit_bias: token id to a number added to its logit; ``-inf`` bans the token.
        logprobs: None for none, 0 for those of the sampled tokens, n for those of the n likeliest
            tokens too. Natural logarithms of the model's own distribution, before all of the above.
        n: how many texts to generate for the prompt; at least 1.
    """

    max_tokens: int = 256
    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    penalty_window: int = 64
    seed: int | None = None
    stop: Sequence[str] = ()
    stop_token_ids: Sequence[int] = ()
    ignore_eos: bool = False
    logit_bias: Mapping[int, float] = field(default_factory=dict, hash=False)
    logprobs: int | None = None
    n: int = 1

    def __post_init__(self) -> None:
        for name, lowest in _INTEGERS.items():
            self._set(name, _integer(name, getattr(self, name), lowest))
        for name, (low, high, low_is_open) in _NUMBERS.items():
            self._set(name, _number(name, getattr(self, name), low, high, low_is_open))
        if self.seed is not None:
            self._set("seed", _integer("seed", self.seed, 0, _MAX_SEED))
        if self.logprobs is not None:
            self._set("logprobs", _integer("logprobs", self.logprobs, 0))
        if not isinstance(self.ignore_eos, bool):
            raise UsageError(f"ignore_eos must be True or False, not {self.ignore_eos!r}.")
        self._set("stop", _stop_strings(self.stop))
        self._set("stop_token_ids", _token_ids(self.stop_token_ids))
        self._set("logit_bias", _biases(self.logit_bias))

    def make_sampler(
        self, vocab_size: int, *, index: int = 0, banned_token_ids: Iterable[int] = ()
    ) -> _core.Sampler:
        """Make the native sampler of the ``index``-th of ``n`` texts.

        Feed it the prompt with ``accept_all`` and each sampled token with ``accept``: penalties
        look back on both. Without a seed every call takes another random one. ``banned_token_ids``
        are never drawn, whatever ``logit_bias`` says. Raises :class:`UsageError` when a token id or
        ``logprobs`` does not fit the vocabulary.
        """
        bias = dict(self.logit_bias) | dict.fromkeys(banned_token_ids, -math.inf)
        outside = [token_id for token_id in bias if not 0 <= token_id < vocab_size]
        if outside:
            raise UsageError(
                f"logit_bias must name token ids from 0 to {vocab_size - 1}, not {outside[0]}."
            )
        if self.logprobs is not None and self.logprobs > vocab_size:
            raise UsageError(f"logprobs must be at most {vocab_size}, not {self.logprobs}.")
        return _core.Sampler(
            vocab_size,
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            min_p=self.min_p,
            repetition_penalty=self.repetition_penalty,
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
            penalty_window=self.penalty_window,
            seed=int.from_bytes(os.urandom(8), "little") if self.seed is None else self.seed,
            stream=index,
            logit_bias=list(bias.items()),
            n_logprobs=self.logprobs,
        )

    def make_stop_matcher(self) -> StopMatcher:
        """Make the matcher of this request's stop strings, for one text."""
        return StopMatcher(self.stop)

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)  # the class is frozen for everyone else


# Smallest value of each whole-number field.
_INTEGERS = {"max_tokens": 1, "top_k": 0, "penalty_window": -1, "n": 1}

# (low, high, whether low itself is excluded) of each real-number field.
_NUMBERS = {
    "temperature": (0.0, math.inf, False),
    "top_p": (0.0, 1.0, True),
    "min_p": (0.0, 1.0, False),
    "repetition_penalty": (0.0, math.inf, True),
    "presence_penalty": (-math.inf, math.inf, False),
    "frequency_penalty": (-math.inf, math.inf, False),
}

_MAX_INT64 = 2**63 - 1


def _integer(name: str, value: Any, low: int, high: int = _MAX_INT64) -> int:
    whole = isinstance(value, Integral) and not isinstance(value, bool)
    if not whole or not low <= int(value) <= high:
        limit = {_MAX_SEED: " to 2**64 - 1", _MAX_INT64: " or more"}[high]
        raise UsageError(f"{name} must be a whole number, {low}{limit}, not {value!r}.")
    return int(value)


def _number(name: str, value: Any, low: float, high: float, low_is_open: bool) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise UsageError(f"{name} must be a number, not {value!r}.")
    number = float(value)
    too_low = number <= low if low_is_open else number < low
    if not math.isfinite(number) or too_low or number > high:
        raise UsageError(f"{name} must be {_range(low, high, low_is_open)}, not {value!r}.")
    return number


def _range(low: float, high: float, low_is_open: bool) -> str:
    if low == -math.inf:
        return "a finite number"
    above = f"above {low:g}" if low_is_open else f"{low:g} or more"
    return f"{above} and finite" if high == math.inf else f"{above} and at most {high:g}"


def _stop_strings(stop: Any) -> tuple[str, ...]:
    strings = (stop,) if isinstance(stop, str) else tuple(stop)
    if not all(isinstance(s, str) and s for s in strings):
        raise UsageError("stop must hold strings of at least one character.")
    return strings


def _token_ids(token_ids: Any) -> tuple[int, ...]:
    return tuple(_integer("stop_token_ids", token_id, 0) for token_id in token_ids)


def _biases(logit_bias: Any) -> dict[int, float]:
    if not isinstance(logit_bias, Mapping):
        raise UsageError("logit_bias must map token ids to numbers.")
    checked = {}
    for token_id, bias in logit_bias.items():
        key = _integer("logit_bias's token id", token_id, 0)
        if isinstance(bias, bool) or not isinstance(bias, Real) or not float(bias) < math.inf:
            raise UsageError(f"logit_bias must hold finite numbers or -inf, not {bias!r}.")
        checked[key] = float(bias)
    return checked
