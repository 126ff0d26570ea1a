"""
The native half of longbow_quarrel: model files, cache bookkeeping, kernels, sampling.
"""

import array
from collections.abc import Iterable, Sequence
import os
from typing import Annotated, Final

import numpy
import numpy.typing
from numpy.typing import NDArray


class MemoryCharge:
    """Bytes in a ledger; they go back when this does."""

    @property
    def n_bytes(self) -> int: ...

class MemoryLedger:
    """One account of every byte, with a hard cap."""

    def __init__(self, cap_bytes: int) -> None: ...

    @property
    def cap_bytes(self) -> int: ...

    @property
    def peak_bytes(self) -> int: ...

    @property
    def used_bytes(self) -> int: ...

    def charge(self, kind: str, n_bytes: int) -> MemoryCharge:
        """Account for memory that Python takes; kind as in used_by_kind()."""

    def refuse_charge(self, n: int) -> None:
        """
        For tests: refuse the n-th charge from now, whatever is free; 0 refuses none.
        """

    def used_by_kind(self) -> dict[str, int]:
        """Bytes by kind: weights, kv, scratch, ..."""

def now_ns() -> int:
    """The clock of all logs."""

class SpanLog:
    """When what ran on which thread."""

    def __init__(self, ledger: MemoryLedger, n_tracks: int, spans_per_track: int) -> None:
        """
        spans_per_track: how many of the last spans of a track are kept, rounded up to a power
        of two; their memory is taken now, 24 bytes each, and charged as scratch.
        """

    @property
    def names(self) -> list[str]: ...

    @property
    def n_tracks(self) -> int: ...

    def spans(self, track: int) -> Annotated[NDArray[numpy.int64], dict(shape=(None, None))]:
        """
        [n_spans, 4] int64: start and end in ns, number of the name, items of a loop that this
        thread took. In the order in which they ended; only between two steps.
        """

    def n_lost(self, track: int) -> int:
        """Spans of a track that later ones have taken the place of."""

    def clear(self) -> None: ...

class CacheEventLog:
    """What happened to the blocks of a cache, and when."""

    def __init__(self, ledger: MemoryLedger, capacity: int) -> None:
        """
        capacity: how many of the last events are kept, rounded up to a power of two; 32 bytes
        each, charged as scratch.
        """

    KINDS: Final[list[str]] = ...
    """Names of the kinds of events."""

    MISS_REASONS: Final[list[str]] = ...
    """Names of the reasons of misses."""

    def events(self) -> Annotated[NDArray[numpy.int64], dict(shape=(None, None))]:
        """
        [n_events, 6] int64: time in ns, kind (of KINDS), layer group or -1 for all, first
        block or -1, blocks or tokens, reason (of MISS_REASONS) or -1. Oldest first.
        """

    @property
    def n_lost(self) -> int:
        """Events that later ones have taken the place of."""

    def clear(self) -> None: ...

class TensorInfo:
    """A tensor of a GGUFFile: where it lies and how."""

    @property
    def name(self) -> str: ...

    @property
    def dtype(self) -> str:
        """Upper case, as in GGUF tools: "Q4_1"."""

    @property
    def shape(self) -> tuple[int, ...]:
        """In ggml order: the length of a row first."""

    @property
    def n_elements(self) -> int: ...

    @property
    def n_bytes(self) -> int: ...

    @property
    def offset(self) -> int:
        """Of the data, in bytes from the start of its file."""

    @property
    def split(self) -> int:
        """Which file of a split model, from 0."""

class GGUFFile:
    """
    A GGUF model (version 2 or 3, one file or split), memory-mapped and checked.

    Raises ModelFormatError, naming file, key or tensor and byte offset, for anything else.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None: ...

    @property
    def path(self) -> str: ...

    @property
    def version(self) -> int: ...

    @property
    def n_splits(self) -> int: ...

    @property
    def file_bytes(self) -> int:
        """Size of all parts together."""

    @property
    def metadata(self) -> dict[str, object]:
        """
        All keys, converted anew at each access: int, float, bool, str, list of str, or a numpy array. Use `get` for one key.
        """

    def get(self, key: str, default: object = None) -> object:
        """The value of one key, or `default`."""

    def strings(self, key: str) -> Strings | None:
        """The array of strings under a key, packed; None where there is none."""

    def numbers(self, key: str) -> memoryview | None:
        """
        The array of numbers under a key, without NumPy; None where there is none.
        """

    def keys(self) -> list[str]:
        """Names of the metadata, in the order of the file."""

    def release_pages(self) -> None:
        """
        Give back the mapped pages that were read so far; a later access reads them again.
        """

    @property
    def tensors(self) -> list[TensorInfo]:
        """In the order of the file."""

    def tensor_bytes(self, name: str) -> numpy.typing.NDArray[numpy.uint8]:
        """
        The raw data as a read-only view that keeps the file mapped. Raises KeyError.
        """

    def dequantize(self, name: str) -> numpy.typing.NDArray[numpy.float32]:
        """The tensor as float32 in numpy order, rows last. Raises KeyError."""

def dequantize(dtype: str, data: bytes | numpy.typing.NDArray[numpy.uint8], n_elements: int) -> numpy.typing.NDArray[numpy.float32]:
    """
    Expands `n_elements` elements of packed `data` to float32 [n_elements].
    """

def quantize(dtype: str, values: numpy.typing.NDArray[numpy.float32]) -> numpy.typing.NDArray[numpy.uint8]:
    """
    Packs float32 [n_elements] as F32, F16, BF16, Q8_0 or Q4_0: uint8 [n_bytes].
    """

class PrefixMatch:
    """A new sequence and how much of its prompt was there."""

    def __init__(self, sequence: int, n_tokens: int, miss_reason: str) -> None: ...

    @property
    def sequence(self) -> int: ...

    @property
    def n_tokens(self) -> int: ...

    @property
    def miss_reason(self) -> str: ...

class Reservation:
    """Room for tokens, or the reason why there is none."""

    def __init__(self, ok: bool, reason: str = '') -> None: ...

    @property
    def ok(self) -> bool: ...

    @property
    def reason(self) -> str: ...

    def __bool__(self) -> bool: ...

class Fork:
    """A copy of a sequence, or the reason why there is none."""

    def __init__(self, reservation: Reservation, sequence: int) -> None: ...

    @property
    def reservation(self) -> Reservation: ...

    @property
    def sequence(self) -> int: ...

class CacheStats:
    """Counts since the cache was made; blocks of all groups."""

    def __init__(self) -> None: ...

    @property
    def n_blocks(self) -> int: ...

    @n_blocks.setter
    def n_blocks(self, arg: int, /) -> None: ...

    @property
    def n_used_blocks(self) -> int: ...

    @n_used_blocks.setter
    def n_used_blocks(self, arg: int, /) -> None: ...

    @property
    def n_cached_blocks(self) -> int: ...

    @n_cached_blocks.setter
    def n_cached_blocks(self, arg: int, /) -> None: ...

    @property
    def n_sequences(self) -> int: ...

    @n_sequences.setter
    def n_sequences(self, arg: int, /) -> None: ...

    @property
    def n_prefix_queries_tokens(self) -> int: ...

    @n_prefix_queries_tokens.setter
    def n_prefix_queries_tokens(self, arg: int, /) -> None: ...

    @property
    def n_prefix_hit_tokens(self) -> int: ...

    @n_prefix_hit_tokens.setter
    def n_prefix_hit_tokens(self, arg: int, /) -> None: ...

    @property
    def n_evicted_blocks(self) -> int: ...

    @n_evicted_blocks.setter
    def n_evicted_blocks(self, arg: int, /) -> None: ...

    @property
    def n_window_blocks(self) -> int: ...

    @n_window_blocks.setter
    def n_window_blocks(self, arg: int, /) -> None: ...

    @property
    def n_copied_blocks(self) -> int: ...

    @n_copied_blocks.setter
    def n_copied_blocks(self, arg: int, /) -> None: ...

    def count_match(self, n_queried: int, n_hit: int, reason: str) -> None:
        """
        A prompt of n_queried tokens of which n_hit were there, and why it were not more.
        """

    @property
    def n_missed_tokens(self) -> dict[str, int]:
        """Queries that were no hits, by reason."""

    @property
    def block_lifetimes(self) -> tuple[list[tuple[float, int]], float]:
        """
        How long blocks were held: (seconds at most, blocks) of each bucket, the last without
        a bound, and the sum in seconds.
        """

class BlockUse:
    """What is known of a block; times count a group's events."""

    @property
    def published_at(self) -> int: ...

    @property
    def released_at(self) -> int: ...

    @property
    def n_uses(self) -> int: ...

class EvictionPolicy:
    """
    Which cached block of a layer group goes first.

    A policy in Python derives from it and overrides insert, erase and victim.
    """

    def __init__(self) -> None: ...

    def insert(self, block: int, use: BlockUse) -> None:
        """The block may go from now on."""

    def erase(self, block: int) -> None:
        """The block was chosen, or is in use again."""

    def victim(self) -> int:
        """One of the inserted blocks; erase follows."""

def eviction_policy_bytes(n_blocks: int) -> int:
    """What a native policy takes for a layer group, in bytes."""

def make_eviction_policy(name: str, n_blocks: int) -> EvictionPolicy:
    """A native policy: lru, lfu or fifo."""

class KVCache:
    """
    Bookkeeping of blocks; see cpp/cache/kv_cache.h.

    A strategy in Python derives from it and overrides every method.
    """

    def __init__(self, strategy: str, block_size: int, groups: Sequence[tuple[int, int]]) -> None:
        """groups: (window, sinks) of each layer group; window 0: all."""

    @property
    def strategy(self) -> str: ...

    @property
    def block_size(self) -> int: ...

    @property
    def n_groups(self) -> int: ...

    def group_spec(self, group: int) -> tuple[int, int]:
        """
        (window, sinks) that attention must keep to; window 0: the model's own.
        """

    def match_prefix(self, prompt: Annotated[NDArray[numpy.int32], dict(shape=(None,), order='C', device='cpu', writable=False)], max_tokens: int) -> PrefixMatch:
        """
        Open a sequence for prompt (int32), which will never hold more than max_tokens.
        """

    def reserve(self, sequence: int, n_tokens: int) -> Reservation:
        """Make room for the next n_tokens, in all groups or in none."""

    def commit(self, sequence: int, tokens: Annotated[NDArray[numpy.int32], dict(shape=(None,), order='C', device='cpu', writable=False)]) -> None:
        """These tokens (int32) were computed into reserved slots."""

    def fork(self, sequence: int) -> Fork:
        """
        A second sequence with the same tokens; both must reserve before they commit again.
        """

    def trim(self, sequence: int, n_tokens: int) -> int:
        """
        Forget what follows the first n_tokens. Returns how many are held now, which is fewer
        where a windowed group has let go of what a resume there needs.
        """

    def release(self, sequence: int) -> None:
        """End the sequence; its full blocks may stay for reuse."""

    def n_tokens(self, sequence: int) -> int:
        """Committed tokens."""

    def block_tables(self, sequence: int) -> list[list[int]]:
        """
        Block ids, one list per layer group; -1 where the cache let a block go.
        """

    def take_copies(self) -> list[tuple[int, int, int]]:
        """
        (group, from, to) of the blocks to copy before the next step, in order.
        """

    def set_event_log(self, log: CacheEventLog | None) -> None:
        """
        What happens to blocks from now on goes to this CacheEventLog; None: nowhere.
        Strategies in Python note nothing.
        """

    def stats(self) -> CacheStats:
        """May be called from any thread."""

    def check_invariants(self) -> None:
        """Raise QuarrelError if the bookkeeping contradicts itself."""

class ContiguousCache(KVCache):
    """One reserved run of consecutive blocks per sequence."""

    def __init__(self, n_groups: int, block_size: int, n_blocks: int, reuse_prefixes: bool, ledger: MemoryLedger | None = None, max_sequences: int = 0) -> None: ...

    @staticmethod
    def bookkeeping_bytes(block_size: int, n_blocks: int, max_sequences: int) -> int:
        """What such a cache charges to its ledger."""

class PagedCache(KVCache):
    """Blocks on demand, shared by equal beginnings."""

    def __init__(self, groups: Sequence[tuple[int, int]], block_size: int, n_blocks: Sequence[int], policies: Sequence[EvictionPolicy], reuse_prefixes: bool = True, fingerprint: int = 0, hash_bits: int = 64, max_step_tokens: int = 0, ledger: MemoryLedger | None = None, max_sequences: int = 0, max_tokens: int = 0) -> None:
        """
        groups: (window, sinks) of each layer group; window 0: all. n_blocks, policies: one per group.
        fingerprint: of what K and V depend on beside the tokens. hash_bits: fewer than 64 force
        collisions, for tests. max_step_tokens: the most tokens of a sequence that a step computes;
        groups with a window reserve no more ahead (0: any number). ledger: charged for the tables of
        max_sequences sequences of max_tokens at once, and for others as they come.
        """

    @staticmethod
    def bookkeeping_bytes(groups: Sequence[tuple[int, int]], block_size: int, n_blocks: Sequence[int], reuse_prefixes: bool, max_sequences: int, max_tokens: int) -> int:
        """What such a cache, with native policies, charges to its ledger."""

class SlidingWindowCache(PagedCache):
    """The last window tokens and the first sinks of each sequence."""

    def __init__(self, window: int, sinks: int, groups: Sequence[tuple[int, int]], block_size: int, n_blocks: Sequence[int], policies: Sequence[EvictionPolicy], reuse_prefixes: bool = True, fingerprint: int = 0, hash_bits: int = 64, max_step_tokens: int = 0, ledger: MemoryLedger | None = None, max_sequences: int = 0, max_tokens: int = 0) -> None:
        """
        groups: (window, sinks) of each layer group; window 0: all. n_blocks, policies: one per group.
        fingerprint: of what K and V depend on beside the tokens. hash_bits: fewer than 64 force
        collisions, for tests. max_step_tokens: the most tokens of a sequence that a step computes;
        groups with a window reserve no more ahead (0: any number). ledger: charged for the tables of
        max_sequences sequences of max_tokens at once, and for others as they come.
        """

class BlockStore:
    """
    The memory behind blocks, as opaque bytes.

    A store in Python derives from it and overrides every method; group and block are trusted.
    """

    def __init__(self) -> None: ...

    @property
    def layout_id(self) -> str:
        """How K and V lie inside a block."""

    def block_bytes(self, group: int) -> int:
        """Bytes of one block, all layers."""

    def read_block(self, group: int, block: int) -> bytes: ...

    def write_block(self, group: int, block: int, data: bytes) -> None: ...

    def copy_block(self, group: int, source: int, target: int) -> None: ...

class SnapshotFigures:
    """What was saved, or taken from a file."""

    @property
    def n_blocks(self) -> int:
        """Of all layer groups."""

    @property
    def n_tokens(self) -> int:
        """Each shared beginning counts once."""

    @property
    def n_bytes(self) -> int:
        """Size of the file."""

class Restored:
    """A sequence that came back, or the reason why it did not."""

    @property
    def reservation(self) -> Reservation: ...

    @property
    def sequence(self) -> int: ...

class SequenceSnapshot:
    """
    K and V of one text, outside the cache, charged to the ledger as snapshots for as long as it lives.
    """

    def __init__(self, cache: KVCache, store: BlockStore, sequence: int, tokens: Annotated[NDArray[numpy.int32], dict(shape=(None,), order='C', device='cpu', writable=False)], ledger: MemoryLedger, whole: bool = False) -> None:
        """
        Of a live sequence; tokens: its committed ones, int32. whole: with what the cache still
        has of it outside its windows, so that a resume can go back.
        """

    @staticmethod
    def load(path: str, cache: KVCache, store: BlockStore, identity: Sequence[tuple[str, str]], ledger: MemoryLedger) -> SequenceSnapshot: ...

    def save(self, path: str, identity: Sequence[tuple[str, str]]) -> SnapshotFigures: ...

    def restore(self, cache: KVCache, store: BlockStore, max_tokens: int) -> Restored:
        """
        A new sequence with this text, which will never hold more than max_tokens.
        """

    @property
    def n_bytes(self) -> int: ...

    @property
    def tokens(self) -> Annotated[NDArray[numpy.int32], dict(shape=(None,), writable=False)]:
        """The text, int32."""

def save_prefix_cache(path: str, cache: KVCache, store: BlockStore, identity: Sequence[tuple[str, str]]) -> SnapshotFigures:
    """
    Write all that later prompts could find. The file appears whole or not at all.
    """

def load_prefix_cache(path: str, cache: KVCache, store: BlockStore, identity: Sequence[tuple[str, str]]) -> SnapshotFigures:
    """
    Take what fits. A file that is damaged or was saved otherwise is refused (SnapshotError)
    before anything changes.
    """

class Value:
    """A matrix of activations: one row per token."""

class Weight:
    """A tensor of the model file."""

class RopeTable:
    """A rotary embedding's frequencies."""

class KVLayer:
    """What one attention layer keeps in the KV cache."""

    def __init__(self, n_kv_heads: int, head_dim: int, window: int = 0) -> None: ...

    @property
    def n_kv_heads(self) -> int: ...

    @property
    def head_dim(self) -> int: ...

    @property
    def window(self) -> int: ...

class LayerGroup:
    """Layers with the same attention span."""

    @property
    def window(self) -> int: ...

    @property
    def layers(self) -> list[int]: ...

class Program:
    """A recorded forward pass."""

    @property
    def n_ops(self) -> int: ...

    @property
    def vocab_size(self) -> int: ...

    @property
    def weight_bytes(self) -> int: ...

    @property
    def kv_layers(self) -> list[KVLayer]: ...

    @property
    def groups(self) -> list[LayerGroup]: ...

class ProgramBuilder:
    """Records a forward pass, op by op; see cpp/program/ops.h."""

    def __init__(self, kv_layers: Sequence[KVLayer]) -> None: ...

    def weight(self, file: GGUFFile, name: str) -> Weight: ...

    def rope_table(self, n_rotated: int, base: float, interleaved: bool, linear_scale: float = 1.0, frequency_factors: Sequence[float] = []) -> RopeTable: ...

    def embedding(self, table: Weight, scale: float = 1.0) -> Value: ...

    def rms_norm(self, x: Value, weight: Weight, eps: float) -> Value: ...

    def linear(self, x: Value, weight: Weight, bias: Weight | None = None) -> Value: ...

    def rope(self, x: Value, table: RopeTable, head_dim: int) -> Value: ...

    def kv_write(self, layer: int, k: Value, v: Value) -> None: ...

    def attention(self, layer: int, q: Value, n_heads: int, scale: float, softcap: float = 0.0) -> Value: ...

    def silu_mul(self, gate: Value, up: Value) -> Value: ...

    def gelu_mul(self, gate: Value, up: Value) -> Value: ...

    def add(self, a: Value, b: Value, scale: float = 1.0) -> Value: ...

    def scale(self, x: Value, factor: float) -> Value: ...

    def softcap(self, x: Value, cap: float) -> Value: ...

    def select_rows(self, x: Value) -> Value: ...

    def finish(self, logits: Value) -> Program: ...

def available_isas() -> list[str]:
    """Instruction sets that the CPU device can use here, best first."""

class KVStorage(BlockStore):
    """The memory behind the cache's blocks."""

    @property
    def n_bytes(self) -> int: ...

class StageTime:
    """Time that one kind of work took, over all steps."""

    @property
    def name(self) -> str: ...

    @property
    def phase(self) -> str: ...

    @property
    def n_runs(self) -> int: ...

    @property
    def seconds(self) -> float: ...

class Executable:
    """A program made ready for a device."""

    def set_profiling(self, on: bool) -> None:
        """Time every stage from now on, counted from zero."""

    def stage_times(self) -> list[StageTime]:
        """Times since profiling was switched on, in the order of the stages."""

    def stage_seconds(self, prefix: str) -> float:
        """
        Seconds of all stages whose names start so, since profiling was switched on.
        """

    def set_trace(self, log: SpanLog | None) -> None:
        """
        While profiling, what runs when goes to this SpanLog, with a track for each of
        track_names; None: nowhere. Between two steps.
        """

    @property
    def track_names(self) -> list[str]:
        """What the tracks of a trace are; the first is the engine's thread."""

    def shrink(self) -> None:
        """Give back what steps with more selected rows than planned have taken."""

class Device:
    """A compute device."""

    @property
    def name(self) -> str: ...

    def compile(self, program: Program, max_tokens: int, ledger: MemoryLedger, max_selected_rows: int = 16, max_context_tokens: int = 8192) -> Executable:
        """
        max_tokens: the largest number of tokens in a step; max_selected_rows: of rows whose
        logits it wants; max_context_tokens: of tokens in a sequence. A step may exceed the
        last two, at the price of memory and of speed.
        """

    def memory_needs(self, program: Program, max_tokens: int, max_selected_rows: int = 16, max_context_tokens: int = 8192) -> tuple[int, int]:
        """
        Bytes of weights and of scratch that compile() would charge, without reading weights.
        """

    def allocate_kv(self, program: Program, block_size: int, n_blocks: Sequence[int], k_dtype: str, v_dtype: str, ledger: MemoryLedger) -> KVStorage:
        """n_blocks: one number per layer group."""

    def kv_block_bytes(self, program: Program, block_size: int, k_dtype: str, v_dtype: str) -> list[int]:
        """Bytes of one block of each layer group."""

class CpuDevice(Device):
    """The CPU."""

    def __init__(self, n_threads: int, isa: str = 'auto') -> None: ...

    @property
    def isa(self) -> str: ...

    @property
    def n_threads(self) -> int: ...

class StepRunner:
    """Runs steps of a ragged batch."""

    def __init__(self, executable: Executable, storage: KVStorage, cache: KVCache, vocab_size: int, masks: Sequence[tuple[int, int]] = []) -> None:
        """
        masks: (window, sinks) that attention keeps to in each layer group, within what the
        cache keeps; none: all that it keeps.
        """

    def run(self, sequences: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu', writable=False)], query_start_loc: Annotated[NDArray[numpy.int32], dict(shape=(None,), order='C', device='cpu', writable=False)], token_ids: Annotated[NDArray[numpy.int32], dict(shape=(None,), order='C', device='cpu', writable=False)], selected_rows: Annotated[NDArray[numpy.int32], dict(shape=(None,), order='C', device='cpu', writable=False)], n_decodes: int = 0, n_best: int = 0) -> Annotated[NDArray[numpy.float32], dict(shape=(None, None), writable=False)]:
        """
        Logits [n_selected, vocab_size] float32, a view that is valid until the next run.

        sequences: [n_seqs] int64, query_start_loc: [n_seqs + 1] int32, token_ids: [n_tokens]
        int32 that follow each sequence's committed tokens, selected_rows: [n_selected] int32.
        n_decodes: the first sequences decode, with one token each; the others prefill.
        n_best: how many tokens with the largest logits best_ids() is to name.
        """

    def run_view(self, sequences: array.array[int], query_start_loc: array.array[int], token_ids: Annotated[memoryview, dict(int)], selected_rows: array.array[int], n_decodes: int, n_best: int) -> memoryview:
        """As run(), without NumPy."""

    def best_ids(self) -> memoryview | None:
        """
        The tokens with the n_best largest logits of each selected row of the last run, in
        their order, [n_selected, n_best] uint32; None where the device has not looked. Valid
        until the next run.
        """

class MetalDevice(Device):
    """
    The GPU of a Mac with Apple silicon; a build without Metal raises QuarrelError when one is made.
    """

    def __init__(self, archive_folder: str = '', metallib_folder: str = '') -> None:
        """
        archive_folder: where compiled pipelines are kept for the next process; metallib_folder:
        where shaders compiled at build time lie. Without one: nowhere.
        """

    @staticmethod
    def is_available() -> bool:
        """Whether this build has Metal and the system a GPU for it."""

    @property
    def gpu_name(self) -> str: ...

    @property
    def recommended_bytes(self) -> int:
        """
        The most that the system advises to keep in GPU memory; a hard limit here.
        """

    @property
    def allocated_bytes(self) -> int:
        """What this process has in GPU memory."""

    @property
    def step_seconds(self) -> float:
        """GPU time of the last step."""

    def capture_next_step(self, file: str) -> None:
        """
        Record the next step to a .gputrace file for Xcode. Needs METAL_CAPTURE_ENABLED=1.
        """

class SampledToken:
    """What one sampling step gives back."""

    @property
    def token_id(self) -> int: ...

    @property
    def logprob(self) -> float | None:
        """
        Natural log of the token's probability under softmax(logits) as the model gave them,
        before bias, penalties, filters and temperature; None unless logprobs were asked for.
        """

    @property
    def top_logprobs(self) -> list[tuple[int, float]]:
        """
        The likeliest (token_id, logprob) pairs, best first, equal ones in ascending id.
        """

    def __repr__(self) -> str: ...

class SamplerWorkspace:
    """
    Scratch memory of sampling: make one per engine and pass it to every call, one call at a time.
    """

    def __init__(self, vocab_size: int) -> None: ...

    @property
    def vocab_size(self) -> int: ...

    @property
    def size_bytes(self) -> int: ...

class Sampler:
    """
    Draws the tokens of one request.

    Steps, in the order of llama.cpp's default chain: logit bias, penalties, top-k, top-p, min-p,
    temperature, draw. top-p and min-p look at probabilities before temperature. The defaults change
    nothing. Raises UsageError when an option is out of its range.
    """

    def __init__(self, vocab_size: int, *, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0, min_p: float = 0.0, repetition_penalty: float = 1.0, presence_penalty: float = 0.0, frequency_penalty: float = 0.0, penalty_window: int = 0, seed: int = 0, stream: int = 0, logit_bias: Sequence[tuple[int, float]] = (), n_logprobs: int | None = None) -> None: ...

    @property
    def vocab_size(self) -> int: ...

    @property
    def n_best(self) -> int:
        """
        How many tokens with the largest logits decide; 0 where the whole row does.
        """

    @property
    def seed(self) -> int: ...

    def accept(self, token_id: int) -> None:
        """Remembers a token, of the prompt or sampled, for the penalties."""

    def accept_all(self, token_ids: Sequence[int] | numpy.typing.NDArray[numpy.int32]) -> None:
        """accept() for each of these tokens, in their order."""

    def sample(self, logits: Annotated[NDArray[numpy.float32], dict(shape=(None,), order='C', device='cpu', writable=False)], position: int, workspace: SamplerWorkspace | None = None) -> SampledToken:
        """
        The token for this position; logits: [vocab_size] float32. The random number depends on
        seed, stream and position alone. Raises UsageError for NaN or +inf, or when no logit is
        above -inf.
        """

    def distribution(self, logits: Annotated[NDArray[numpy.float32], dict(shape=(None,), order='C', device='cpu', writable=False)], workspace: SamplerWorkspace | None = None) -> list[tuple[int, float]]:
        """
        The (token_id, probability) pairs that sample() draws from; logits: [vocab_size] float32.
        """

def sample_batch(samplers: Sequence[Sampler], logits: memoryview | numpy.typing.NDArray[numpy.float32], positions: Sequence[int], workspace: SamplerWorkspace | None = None, best: memoryview | numpy.typing.NDArray[numpy.uint32] | None = None) -> list[SampledToken]:
    """
    Samples one token per row in one native call, without the GIL.

    logits: [n, vocab_size] float32; row i is drawn by samplers[i] for positions[i]. best: [n, k]
    uint32, the tokens with the k largest logits of each row, in their order: a sampler whose n_best
    is at most k then reads no others. Raises UsageError like Sampler.sample, naming the row.
    """

class Counter:
    """Counts upwards; any thread may add and read."""

    def __init__(self) -> None: ...

    def add(self, n: int) -> None: ...

    @property
    def value(self) -> int: ...

class Histogram:
    """
    How often values fell into each bucket; any thread may observe and read.
    """

    def __init__(self, bounds: Sequence[float]) -> None:
        """
        bounds: inclusive upper bounds, ascending; a last bucket without a bound is added. Raises
        UsageError where they do not ascend.
        """

    def observe(self, value: float) -> None: ...

    @property
    def bounds(self) -> list[float]: ...

    @property
    def counts(self) -> list[int]:
        """One per bucket, the last one of values above all bounds."""

    @property
    def sum(self) -> float: ...

class Strings:
    """An array of short texts, packed."""

    def __init__(self, texts: Iterable[str]) -> None: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> str: ...

class Vocabulary:
    """The pieces of a tokenizer, by id and by text."""

    def __init__(self, pieces: Strings, types: array.array[int]) -> None:
        """
        types: [n_pieces] int32. An empty piece I, a padding row, is called [EMPTY_I].
        """

    def __len__(self) -> int: ...

    def piece(self, token_id: int) -> str: ...

    def find(self, piece: str) -> int | None:
        """The id of a piece, None where there is none."""

    @property
    def duplicate(self) -> int | None:
        """The first id whose piece comes again, None where all differ."""

    def type(self, token_id: int) -> int: ...

    def set_type(self, token_id: int, type: int) -> None: ...

    def ids_of_types(self, types: Sequence[int]) -> list[int]:
        """Ids of all tokens of these types, ascending."""

class SentencePiece:
    """
    Merges neighbours while they make a token, best score first; falls back to byte tokens.
    """

    def __init__(self, vocabulary: Vocabulary, scores: array.array[float], unknown: int | None) -> None:
        """scores: [n_pieces] float32. Raises UsageError for NaN."""

    def encode(self, text: str) -> list[int]:
        """Ids of text without special tokens. Raises UsageError."""

class BytePairEncoder:
    """Merges pairs by rank inside pieces of text."""

    def __init__(self, vocabulary: Vocabulary, merges: Strings, ignore_merges: bool) -> None:
        """
        merges: "left right" by rank. Raises UsageError where one does not fit.
        """

    def encode(self, pieces: list[str]) -> list[int]:
        """Ids of pieces as the pre-tokenizer cut them, one after the other."""
