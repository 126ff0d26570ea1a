"""How results are shown: as JSON, as a line of timings, as sizes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from longbow_quarrel import RequestOutput

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def as_dict(output: RequestOutput) -> dict[str, Any]:
    """What ``--json`` prints of an answer."""
    return {
        "text": output.text,
        "token_ids": output.token_ids,
        "prompt_token_ids": output.prompt_token_ids,
        "finish_reason": output.finish_reason,
        "cached_tokens": output.cached_tokens,
        "miss_reason": output.miss_reason,
        "timings": timings(output),
    }


def timings(output: RequestOutput) -> dict[str, float]:
    """Seconds, and tokens per second of prompt (without cached ones) and answer."""
    t = output.timings
    n_computed = len(output.prompt_token_ids) - output.cached_tokens
    # The first token comes out of the prompt's last step.
    n_decoded = len(output.token_ids) - 1
    return {
        "queue_seconds": t.queue_seconds,
        "prefill_seconds": t.prefill_seconds,
        "decode_seconds": t.decode_seconds,
        "ttft_seconds": t.ttft_seconds,
        "total_seconds": t.total_seconds,
        "prompt_tokens_per_second": _rate(n_computed, t.prefill_seconds),
        "decode_tokens_per_second": _rate(n_decoded, t.decode_seconds),
    }


def timings_line(output: RequestOutput) -> str:
    """The same in words, on one line."""
    t = timings(output)
    n_prompt = len(output.prompt_token_ids)
    return (
        f"[{n_prompt} prompt tokens, {output.cached_tokens} cached, "
        f"{t['prompt_tokens_per_second']:.1f} tokens/s; "
        f"{len(output.token_ids)} generated, {t['decode_tokens_per_second']:.1f} tokens/s; "
        f"first token after {t['ttft_seconds']:.3f} s, total {t['total_seconds']:.3f} s; "
        f"{output.finish_reason}]"
    )


def size(n_bytes: int) -> str:
    """Bytes as people read them: 93.8 MiB."""
    value = float(n_bytes)
    for unit in _UNITS:
        if value < 1024 or unit == _UNITS[-1]:
            break
        value /= 1024
    return f"{n_bytes} B" if unit == "B" else f"{value:.1f} {unit}"


def _rate(n_tokens: int, seconds: float) -> float:
    return n_tokens / seconds if n_tokens > 0 and seconds > 0 else 0.0
