"""One text being generated: what was asked, what there is so far."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from longbow_quarrel import _core
from longbow_quarrel.sampling import SamplingParams
from longbow_quarrel.snapshots import SavedSequence
from longbow_quarrel.stop import StopMatcher
from longbow_quarrel.tokenizer import StreamDecoder

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass
class Timings:
    """When things happened; ``time.perf_counter`` seconds, None until they have."""

    arrived: float = field(default_factory=time.perf_counter)
    started: float | None = None
    first_token: float | None = None
    finished: float | None = None
    last_token: float | None = None

    def _since(self, start: float | None, end: float | None) -> float:
        return end - start if start is not None and end is not None else 0.0

    @property
    def queue_seconds(self) -> float:
        return self._since(self.arrived, self.started)

    @property
    def prefill_seconds(self) -> float:
        return self._since(self.started, self.first_token)

    @property
    def decode_seconds(self) -> float:
        return self._since(self.first_token, self.finished)

    @property
    def ttft_seconds(self) -> float:
        """Time to first token, counted from the request's arrival."""
        return self._since(self.arrived, self.first_token)

    @property
    def total_seconds(self) -> float:
        return self._since(self.arrived, self.finished)


@dataclass(frozen=True)
class TokenLogprobs:
    """Natural logarithms of the model's own probabilities, before sampling changes them.

    Attributes:
        top: the likeliest tokens and theirs, best first, as many as were asked for.
    """

    token_id: int
    logprob: float
    top: list[tuple[int, float]]


@dataclass(eq=False)
class Request:
    """State that the scheduler and the engine share.

    Attributes:
        ids: int32 [n_prompt + max_tokens], prompt and output, filled up to ``n_tokens``.
        is_read_as_it_comes: somebody waits for each token; others' prompts take small chunks then.
    """

    params: SamplingParams
    sampler: _core.Sampler
    decoder: StreamDecoder
    stop: StopMatcher
    ids: memoryview[int]
    n_prompt: int
    n_tokens: int
    n_computed: int = 0  # tokens whose K and V are in the cache
    sequence: int | None = None
    saved: SavedSequence | None = None  # where it may start from instead of the prefix cache
    cached_tokens: int = 0
    miss_reason: str = ""
    text: str = ""
    unread: str = ""  # text nobody has been given yet
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    finish_reason: str | None = None
    error: Exception | None = None
    is_read_as_it_comes: bool = True
    timings: Timings = field(default_factory=Timings)
    # The other texts of the same prompt wait until it is computed, and then fork its sequence.
    leader: Request | None = None
    followers: list[Request] = field(default_factory=list)

    @property
    def output_ids(self) -> list[int]:
        return self.ids[self.n_prompt : self.n_tokens].tolist()

    @property
    def tokens(self) -> NDArray[np.int32]:
        """``ids`` as an array, without a copy."""
        import numpy as np

        return np.asarray(self.ids)

    @property
    def max_total(self) -> int:
        return len(self.ids)

    def emit(self, text: str) -> None:
        self.text += text
        self.unread += text
