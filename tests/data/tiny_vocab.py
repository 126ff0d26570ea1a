"""Vocabularies of the tiny models: small, complete (every byte has a token) and loadable anywhere.

Each function writes the ``tokenizer.*`` keys of a file and returns the vocabulary size.
"""

from __future__ import annotations

from gguf import GGUFWriter, TokenType

_BPE_SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>"]
# in order of priority; both halves of a merge must be tokens themselves
_BPE_MERGES = [
    ("Ġ", "t"), ("h", "e"), ("Ġ", "a"), ("i", "n"), ("Ġt", "he"), ("e", "r"),
    ("o", "n"), ("Ġ", "s"), ("a", "n"), ("an", "d"), ("Ġa", "n"), ("in", "g"),
]  # fmt: skip
_SPM_WORDS = [
    "▁t", "he", "▁a", "in", "▁the", "er", "on", "▁s", "an", "nd", "▁and", "ing", "re", "▁o",
]  # fmt: skip
_CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def add_bpe(writer: GGUFWriter, pre_tokenizer: str) -> int:
    """Byte-level BPE: four control tokens, the 256 bytes in GPT-2's alphabet, a few merges."""
    tokens = [*_BPE_SPECIALS, *_byte_alphabet(), *(a + b for a, b in _BPE_MERGES)]
    kinds = [TokenType.CONTROL] * len(_BPE_SPECIALS)
    kinds += [TokenType.NORMAL] * (len(tokens) - len(kinds))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre_tokenizer)
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges([f"{a} {b}" for a, b in _BPE_MERGES])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(3)
    writer.add_add_bos_token(False)
    writer.add_chat_template(_CHAT_TEMPLATE)
    return len(tokens)


def add_spm_llama(writer: GGUFWriter) -> int:
    """SentencePiece in Llama 2's order: unk, bos, eos, bytes, pieces; a space goes in front."""
    n_tokens = _add_spm(writer, ["<unk>", "<s>", "</s>"])
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(True)
    writer.add_add_space_prefix(True)
    return n_tokens


def add_spm_gemma(writer: GGUFWriter) -> int:
    """SentencePiece in Gemma's order: pad, eos, bos, unk; no space in front."""
    n_tokens = _add_spm(writer, ["<pad>", "<eos>", "<bos>", "<unk>"])
    writer.add_pad_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_bos_token_id(2)
    writer.add_unk_token_id(3)
    writer.add_add_bos_token(True)
    writer.add_add_space_prefix(False)
    return n_tokens


def _add_spm(writer: GGUFWriter, specials: list[str]) -> int:
    pieces = [*_SPM_WORDS, "▁", *(chr(c) for c in range(ord("a"), ord("z") + 1))]
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    tokens = [*specials, *byte_tokens, *pieces]
    kinds = [TokenType.UNKNOWN if t == "<unk>" else TokenType.CONTROL for t in specials]
    kinds += [TokenType.BYTE] * len(byte_tokens) + [TokenType.NORMAL] * len(pieces)
    scores = [0.0] * (len(specials) + len(byte_tokens)) + [-float(i) for i in range(len(pieces))]
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_scores(scores)
    writer.add_token_types(kinds)
    return len(tokens)


def _byte_alphabet() -> list[str]:
    """GPT-2's printable stand-in for each byte 0 ... 255."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    stand_in = {byte: chr(byte) for byte in printable}
    stand_in |= {byte: chr(256 + index) for index, byte in enumerate(others)}
    return [stand_in[byte] for byte in range(256)]
