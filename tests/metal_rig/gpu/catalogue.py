"""The product's kernels with specialisations that matter, and what each promises of its loads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from metal_rig.gpu.ptx import Promise
from metal_rig.kv_pack import KV_TYPES, head_bytes

HEAD_SIZES = (64, 80, 96, 128, 256)
PREFILL_HEAD_SIZES = (16, 32, *HEAD_SIZES)
# Bytes of the narrowest and of the widest load of a weight. Rows of plain numbers may end anywhere,
# so their kernels have narrow loads too; blocks are read as wide as their alignment allows.
WEIGHT_LOADS = {
    "F32": (4, 16), "F16": (2, 16), "BF16": (2, 16), "Q8_0": (2, 2), "Q4_0": (2, 2),
    "Q4_1": (4, 4), "Q5_0": (2, 2), "Q5_1": (8, 8), "Q2_K": (4, 4), "Q3_K": (1, 2),
    "Q4_K": (16, 16), "Q5_K": (16, 16), "Q6_K": (1, 2),
}  # fmt: skip
# Bytes of a decoding lane's narrowest and widest load. Of K the integers in words of 16 bytes, the
# scales of 2 or 4 tokens; of V scales of 2 tokens and halves of chunks, which of q8_0 are 4 bytes:
# the other half of each is its neighbour's. Queries are floats of columns.
DECODE_K_LOADS = {"q8_0": (4, 16), "q4_0": (8, 16)}
DECODE_V_LOADS = {"q8_0": (4, 4), "q4_0": (4, 16)}
# Chunks of two tokens for a prefill; the least is their scales', where there are some.
CHUNK_LOADS = {"f32": (16, 16), "f16": (16, 16), "bf16": (16, 16), "q8_0": (4, 16), "q4_0": (4, 8)}


@dataclass(frozen=True)
class Specialisation:
    """Kernels of one shader with values for its function constants."""

    shader: str
    constants: Mapping[int, np.generic]
    kernels: tuple[str, ...]
    promises: Mapping[str, tuple[Promise, ...]]  # by kernel
    dynamic_bytes: int = 0  # of threadgroup memory

    @property
    def name(self) -> str:
        values = "-".join(str(v) for v in self.constants.values())
        return f"{self.shader}-{values}" if values else self.shader


def attention_constants(
    head_dim: int,
    block_size: int,
    k_type: str,
    v_type: str,
    group: int,
    partition: int = 512,
    round_: int = 512,
) -> dict[int, np.generic]:
    """AttentionConstant of params.h."""
    types = KV_TYPES.index(k_type), KV_TYPES.index(v_type)
    values = (head_dim, block_size, *types, group, partition, round_)
    return {i: np.uint32(v) for i, v in enumerate(values)}


def decode_memory(constants: Mapping[int, np.generic]) -> int:
    """attention_decode_memory() of params.h, for AttentionConstant."""
    head_dim, _, k_type, v_type, group, partition, round_ = (int(constants[i]) for i in range(7))
    has_scales = [KV_TYPES[t] in DECODE_K_LOADS for t in (k_type, v_type)]
    scores = -(-group // 4) * round_ * 16
    queries = -(-head_dim // 32) * 512 * (1 if group <= 4 else 2) * has_scales[0]
    blocks = (partition // 8 + 5) // 4 * 16 * any(has_scales)
    return max(scores, 4 * 2 * head_dim * 4, 4 * 8 * 32 * 4) + queries + blocks


def device_partition(head_dim: int, k_type: str, v_type: str, group: int) -> tuple[int, int]:
    """attention_partition() and attention_round() of kv_layout.h: what the device takes."""
    row_bytes = sum(head_bytes(t, head_dim, 8) // 8 for t in (k_type, v_type))
    partition = -(-(20 * 12 * group * head_dim // row_bytes) // 512) * 512
    has_scales = k_type in DECODE_K_LOADS or v_type in DECODE_V_LOADS
    is_one = has_scales and -(-group // 4) * partition <= 1024
    return partition, partition if is_one else 512


def attention_decode(head_dim: int, k_type: str, v_type: str, group: int) -> Specialisation:
    promises = (
        Promise(0, 4, 4) if k_type in DECODE_K_LOADS else Promise(0, 16, 16),
        Promise(1, *DECODE_K_LOADS.get(k_type, (16, 16))),
        Promise(2, *DECODE_V_LOADS.get(v_type, (16, 16))),
    )
    sizes = device_partition(head_dim, k_type, v_type, group)
    constants = attention_constants(head_dim, 16, k_type, v_type, group, *sizes)
    return Specialisation(
        "attention_decode",
        constants,
        ("attention_decode", "attention_decode_reduce"),
        {"attention_decode": promises, "attention_decode_reduce": (Promise(0, 16, 16),)},
        decode_memory(constants),
    )


def attention_prefill(matrix: str, head_dim: int, k_type: str, v_type: str) -> Specialisation:
    kernel = f"attention_prefill_{matrix}_{head_dim}"
    promises = (
        Promise(0, 16, 16),
        Promise(1, *CHUNK_LOADS[k_type]),
        Promise(2, *CHUNK_LOADS[v_type]),
    )
    constants = dict(list(attention_constants(head_dim, 16, k_type, v_type, 4).items())[:5])
    return Specialisation("attention_prefill", constants, (kernel,), {kernel: promises})


def linear(shader: str, types: tuple[str, ...], tokens_per_pass: int = 4) -> Specialisation:
    constants: dict[int, np.generic] = {16: np.bool_(True), 17: np.bool_(True)}
    if shader != "linear_prefill":
        constants[18] = np.uint32(tokens_per_pass)
    if shader == "linear_gated":
        constants = {18: np.uint32(tokens_per_pass), 19: np.uint32(0)}
    promises = {}
    for t in types:
        weight = Promise(1, *WEIGHT_LOADS[t])
        x = Promise(0, 4 if WEIGHT_LOADS[t][0] < 16 and t in ("F32", "F16", "BF16") else 16, 16)
        second = (Promise(2, *WEIGHT_LOADS[t]),) if shader == "linear_gated" else ()
        promises[f"{shader}_{t}"] = () if shader == "linear_prefill" else (x, weight, *second)
    return Specialisation(shader, constants, tuple(promises), promises)


def row_kernels() -> Iterator[Specialisation]:
    # A float4 that is only copied moves as two halves here: the shim's vectors are structs.
    four = (Promise(0, 16, 16),)
    yield Specialisation(
        "rms_norm", {}, ("rms_norm", "add_rms_norm"), {"rms_norm": four, "add_rms_norm": four}
    )
    for interleaved in (False, True):
        yield Specialisation("rope", {0: np.bool_(interleaved)}, ("rope",), {})
    names = ("add", "scale", "softcap", "silu_mul", "gelu_mul")
    yield Specialisation("elementwise", {}, names, {n: (Promise(0, 4, 8),) for n in names})
    yield Specialisation("select_rows", {}, ("select_rows",), {"select_rows": (Promise(0, 8, 8),)})
    yield Specialisation("sampling", {}, ("argmax", "top_k_chunks", "top_k_merge"), {})
    yield Specialisation("embedding", {}, tuple(f"embedding_{t}" for t in WEIGHT_LOADS), {})


def kv_write(k_type: str, v_type: str) -> Specialisation:
    constants = dict(list(attention_constants(128, 16, k_type, v_type, 1).items())[:4])
    promises = (Promise(0, 16, 16), Promise(1, 16, 16))
    return Specialisation("kv_write", constants, ("kv_write",), {"kv_write": promises})


def everyday() -> list[Specialisation]:
    """Every kernel, every type and every head size, each at least once."""
    types = tuple(WEIGHT_LOADS)
    pairs = [(k, KV_TYPES[(i + 1) % 5]) for i, k in enumerate(KV_TYPES)]
    return [
        *row_kernels(),
        *(linear(s, types) for s in ("linear_decode", "linear_gated", "linear_prefill")),
        *(kv_write(k, v) for k, v in pairs[:3]),
        *(attention_decode(d, t, t, 4) for d, t in zip(HEAD_SIZES, KV_TYPES, strict=True)),
        *(attention_prefill("half", d, "f16", "q8_0") for d in PREFILL_HEAD_SIZES),
        *(attention_prefill("float", d, "f32", "q4_0") for d in (64, 128, 256)),
    ]


def exhaustive() -> list[Specialisation]:
    """All pairs that everyday() leaves out and that a model may ask for."""
    types = tuple(WEIGHT_LOADS)
    return [
        *(linear("linear_decode", types, n) for n in (1, 2)),
        *(kv_write(k, k) for k in KV_TYPES),
        *(attention_decode(d, t, t, g) for d in (64, 128, 256) for t in KV_TYPES for g in (1, 8)),
        *(attention_decode(128, k, v, 4) for k in KV_TYPES for v in KV_TYPES if k != v),
        *(attention_prefill("float", d, "bf16", "bf16") for d in (16, 32, 80, 96)),
    ]
