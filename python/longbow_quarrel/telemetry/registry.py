"""Every metric by name: what it counts, in what unit, by which labels.

The stems are vLLM's, so that dashboards port by prefix. docs/metrics.md is made from this list.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from longbow_quarrel.rollout.evidence import KL_BUCKETS

PREFIX = "quarrel_"
ENGINE_LABELS = ("model", "strategy", "device")

# From a small model's step to a request that waited behind many.
_REQUEST_SECONDS = (
    *(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
    *(20.0, 40.0, 80.0, 160.0, 320.0, 640.0),
)
# Dense where people notice: 20 ms reads as fluent, 100 ms as slow, 1 s as stuck.
_TOKEN_SECONDS = (
    *(0.001, 0.0025, 0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.075),
    *(0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 2.5, 5.0),
)
_KERNEL_SECONDS = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
_TOKENS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)


@dataclass(frozen=True)
class Metric:
    """A metric of the engine; every one also has ``ENGINE_LABELS``.

    Attributes:
        name: as exposed, without ``PREFIX``.
        labels: beside those of every metric.
        buckets: upper bounds of a histogram; empty where they are kept natively.
        source: ``native`` is read when somebody asks, from counters in C++; ``engine`` from state
            of the Python scheduler; ``events`` is counted as things happen; ``rollout`` is part of
            a rollout's evidence.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    source: Literal["native", "engine", "events", "rollout"]
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


METRICS: tuple[Metric, ...] = (
    Metric("prompt_tokens_total", "counter", "Prompt tokens of started requests.", "events"),
    Metric("generation_tokens_total", "counter", "Tokens generated.", "events"),
    Metric(
        "prefix_cache_queries_total",
        "counter",
        "Prompt tokens looked up in the cache; after a preemption, again.",
        "native",
    ),
    Metric("prefix_cache_hits_total", "counter", "Tokens of them that were there.", "native"),
    Metric(
        "prefix_cache_miss_total",
        "counter",
        "Tokens of them that were not there, by the reason why there were no more.",
        "native",
        ("reason",),
    ),
    Metric(
        "kv_cache_usage_ratio", "gauge", "Blocks held by live sequences, 0 to 1 of all.", "native"
    ),
    Metric("kv_cache_used_bytes", "gauge", "Bytes of blocks held by live sequences.", "native"),
    Metric("kv_cache_capacity_bytes", "gauge", "Bytes of all blocks.", "native"),
    Metric(
        "kv_cache_blocks",
        "gauge",
        "Blocks by state: used (held by live sequences), cached (kept for reuse), free.",
        "native",
        ("state",),
    ),
    Metric(
        "kv_cache_evictions_total",
        "counter",
        "Blocks let go: room (cached, but the room was needed), window (left a live sequence's "
        "attention window).",
        "native",
        ("reason",),
    ),
    Metric(
        "kv_block_lifetime_seconds",
        "histogram",
        "From a block's being handed out to its being free again.",
        "native",
    ),
    Metric(
        "preemptions_total",
        "counter",
        "Running requests that had to give their blocks back.",
        "events",
        ("reason",),
    ),
    Metric(
        "time_to_first_token_seconds",
        "histogram",
        "From a request's arrival to its first token.",
        "events",
        buckets=_REQUEST_SECONDS,
    ),
    Metric(
        "inter_token_latency_seconds",
        "histogram",
        "Between two tokens of a text.",
        "events",
        buckets=_TOKEN_SECONDS,
    ),
    Metric(
        "e2e_request_latency_seconds",
        "histogram",
        "From a request's arrival to its end.",
        "events",
        buckets=_REQUEST_SECONDS,
    ),
    Metric(
        "request_queue_time_seconds",
        "histogram",
        "From a request's arrival to its start.",
        "events",
        buckets=_REQUEST_SECONDS,
    ),
    Metric(
        "request_prefill_time_seconds",
        "histogram",
        "From a request's start to its first token.",
        "events",
        buckets=_REQUEST_SECONDS,
    ),
    Metric(
        "request_decode_time_seconds",
        "histogram",
        "From a request's first token to its end.",
        "events",
        buckets=_REQUEST_SECONDS,
    ),
    Metric("requests_running", "gauge", "Requests that hold blocks.", "engine"),
    Metric("requests_waiting", "gauge", "Requests in the queue.", "engine"),
    Metric(
        "request_success_total",
        "counter",
        "Requests that ended, by how: stop, length, cancelled or error.",
        "events",
        ("finished_reason",),
    ),
    Metric(
        "requests_refused_total",
        "counter",
        "Requests that were not served: queue_full, too_long, stopping, or what the cache said.",
        "events",
        ("reason",),
    ),
    Metric(
        "iteration_tokens", "histogram", "Tokens computed in a step.", "events", buckets=_TOKENS
    ),
    Metric(
        "attention_kernel_seconds",
        "histogram",
        "Time of a step in attention, by what the step did: prefill, decode, mixed, or shadow (a "
        "rollout's comparison); on a GPU of one step in 512.",
        "events",
        ("phase",),
        _KERNEL_SECONDS,
    ),
    Metric(
        "op_seconds_total",
        "counter",
        "Time of steps in each kind of op; on a GPU of one step in 512.",
        "native",
        ("op",),
    ),
    Metric(
        "memory_bytes",
        "gauge",
        "Bytes in the memory ledger, by what they hold.",
        "native",
        ("kind",),
    ),
    Metric(
        "memory_predicted_bytes",
        "gauge",
        "Bytes that the memory plan predicted before loading, by what they hold.",
        "native",
        ("kind",),
    ),
    Metric(
        "device_memory_allocated_bytes",
        "gauge",
        "Bytes in the memory ledger, all together.",
        "native",
    ),
    Metric(
        "rollout_requests_total",
        "counter",
        "Requests by arm: baseline or candidate; shadow are those of either that are compared.",
        "rollout",
        ("arm",),
    ),
    Metric(
        "rollout_divergence_total",
        "counter",
        "Compared texts that diverged: bits (some logit is not the same bits), tokens (one that "
        "the baseline would not have drawn), kl (mean beyond the bound).",
        "rollout",
        ("kind",),
    ),
    Metric(
        "rollout_logit_kl",
        "histogram",
        "KL divergence of the candidate from the baseline at compared positions, in nats.",
        "rollout",
        buckets=KL_BUCKETS,
    ),
    Metric(
        "rollout_skipped_total",
        "counter",
        "Texts that were to be compared and were not: queue_full, no_room, rollout_ended.",
        "rollout",
        ("reason",),
    ),
    Metric("rollout_events_total", "counter", "Decisions by reason.", "rollout", ("reason",)),
    Metric("rollout_share", "gauge", "Share of requests that the candidate serves.", "rollout"),
    Metric(
        "rollout_phase",
        "gauge",
        "1 for the phase that a rollout is in: running, promoted or rolled_back.",
        "rollout",
        ("phase",),
    ),
)
