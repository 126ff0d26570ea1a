"""Pre-tokenizers of byte-level BPE by the name in ``tokenizer.ggml.pre``.

A pre-tokenizer is a row of regular expressions. Each cuts every piece that the ones before left:
its matches become pieces of their own, and so does the text between them; merges never cross a
cut. Names, expressions and flags are those of llama.cpp b11434, written for Oniguruma, where a
class like ``[\\p{L}&&[^a-z]]`` says "letter, but not a to z".
"""

from __future__ import annotations

from dataclasses import dataclass

from longbow_quarrel.errors import TokenizerError

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
_CONTRACTION = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
_WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_SYMBOLS = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3 = rf"{_CONTRACTION}|{_WORD}|\p{{N}}{{1,3}}|{_SYMBOLS}|{_SPACES}"
_QWEN2 = rf"{_CONTRACTION}|{_WORD}|\p{{N}}|{_SYMBOLS}|{_SPACES}"
_QWEN35 = (
    rf"{_CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}"
    rf"| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{_SPACES}"
)
# Words that change case at most once, from upper to lower.
_UPPER = r"[\p{L}&&[^a-z]]"
_LOWER = r"[\p{L}&&[^A-Z]]"


def _cased(suffix: str) -> str:
    start = r"[^\r\n\p{L}\p{N}]?"
    return f"{start}{_UPPER}*{_LOWER}+{suffix}|{start}{_UPPER}+{_LOWER}*{suffix}"


_PATHS = r" ?[^\s\p{L}\p{N}]+[\r\n/]*"
_TEKKEN = rf"{_cased('')}|\p{{N}}|{_PATHS}|{_SPACES}"
_GPT4O = rf"{_cased(_CONTRACTION + '?')}|\p{{N}}{{1,3}}|{_PATHS}|{_SPACES}"
_ASCII_PUNCTUATION = r"[!\"#$%\&'()*+,\-./:;<=>?@\[\\\]^_`{|}~]"
_CJK = r"[一-龥\u3040-ゟ゠-ヿ]+"
_MARKED_WORD = r"[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
_DEEPSEEK3 = rf"{_ASCII_PUNCTUATION}[A-Za-z]+|{_MARKED_WORD}| ?[\p{{P}}\p{{S}}]+[\r\n]*|{_SPACES}"
_FINNISH = r" ?[^(\s|.,!?…。，、।۔،)]+"
# The ranges hold a few kinds of whitespace that llama.cpp does not let them match.
_EAST_ASIAN = r"[[一-龥ࠀ-一가-\uD7FF]&&\S]+"
# Cased letters as DeepSeek LLM's tokenizer lists them.
_DEEPSEEK_LETTERS = (
    r"A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅ"
    r"Ὀ-Ὅὐ-ὗὙὛὝὟ-\u1F7Dᾀ-ᾴᾶ-ᾼ\u1FBEῂ-ῄῆ-ῌῐ-\u1FD3ῖ-\u1FDBῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤ\u2126ℨ\u212A-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎ"
    r"ↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃"
)


@dataclass(frozen=True)
class PreTokenizer:
    """How text is cut before merging.

    Attributes:
        patterns: Oniguruma expressions, applied one after the other.
        ignore_merges: A piece that is itself a token stays whole, whatever the merges say.
        add_bos: Whether BOS is prepended when the file does not say.
        strip_left: Special tokens that swallow the whitespace before them.
    """

    patterns: tuple[str, ...]
    ignore_merges: bool = False
    add_bos: bool = False
    strip_left: tuple[str, ...] = ()


def _table() -> dict[str, PreTokenizer]:
    gpt2 = PreTokenizer((_GPT2,))
    mask = PreTokenizer((_GPT2,), strip_left=("<mask>",))
    digits = PreTokenizer((r"\p{N}", _GPT2))
    llama3 = PreTokenizer((_LLAMA3,), ignore_merges=True, add_bos=True)
    llama3_merging = PreTokenizer((_LLAMA3,))
    qwen2 = PreTokenizer((_QWEN2,))
    gpt4o = PreTokenizer((_GPT4O,))
    deepseek3 = PreTokenizer((r"\p{N}{1,3}", _CJK, _DEEPSEEK3))
    finnish = PreTokenizer((_FINNISH,))
    bailing = PreTokenizer(
        (
            r"'(?:[sSdDmMtT]|[lL][lL]|[vV][eE]|[rR][eE])"
            rf"|{_WORD}|\p{{N}}|{_SYMBOLS}|\s*[\r\n]|\s+(?!\S)|\s+",
        )
    )
    groups: tuple[tuple[str, PreTokenizer], ...] = (
        (
            "default",
            PreTokenizer((r"[\p{P}$+<=>^~|]+", _GPT2, r"\p{N}+", r"[0-9][0-9][0-9]")),
        ),
        (
            "gpt-2 phi-2 jina-es jina-de gigachat a.x-4.0 mellum modern-bert exaone4 mpt olmo jais "
            "trillion granite-docling jina-v1-en roberta-bpe",
            gpt2,
        ),
        ("jina-v2-es jina-v2-de jina-v2-code", mask),
        (
            "smollm starcoder refact command-r codeshell exaone minerva-7b mellum2",
            digits,
        ),
        (
            "llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano",
            llama3,
        ),
        ("dbrx smaug-bpe chatglm-bpe", llama3_merging),
        ("glm4 glm5", PreTokenizer((_LLAMA3,), ignore_merges=True)),
        (
            "qwen2 deepseek-r1-qwen kormo f2llmv2 megrez stablelm2 hunyuan solar-open grok-2",
            qwen2,
        ),
        ("qwen35", PreTokenizer((_QWEN35,))),
        ("laguna", PreTokenizer((r"[^\n]+|[\n]+", _QWEN2))),
        ("ufakzeka", PreTokenizer((rf"{_WORD}|\p{{N}}|{_SYMBOLS}|{_SPACES}",))),
        ("tekken", PreTokenizer((_TEKKEN,), ignore_merges=True, add_bos=True)),
        ("gpt-4o llama4 kanana2 talkie minimax-m2", gpt4o),
        (
            "deepseek-llm",
            PreTokenizer(
                (
                    r"[\r\n]",
                    rf"\s?[{_DEEPSEEK_LETTERS}]+",
                    r"\s?[!-/:-~！-／：-～‘-‟、。]+",
                    r"\s+\z",
                    _EAST_ASIAN,
                    r"\p{N}+",
                )
            ),
        ),
        (
            "deepseek-coder",
            PreTokenizer((r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _EAST_ASIAN, r"\p{N}")),
        ),
        ("deepseek-v3 hunyuan-dense joyai-llm hy_v4", deepseek3),
        ("falcon", PreTokenizer((r"[\p{P}$+<=>^~|`]+", _GPT2, r"[0-9][0-9][0-9]"))),
        ("poro-chat bloom gpt3-finnish", finnish),
        ("viking", PreTokenizer((_FINNISH, r"\p{N}"))),
        ("bailingmoe bailingmoe2 llada-moe", bailing),
        (
            "seed-coder",
            PreTokenizer(
                (rf"{_CONTRACTION}|{_WORD}|\p{{N}}| ?[^\s\p{{L}}\p{{N}}\r\n]+|{_SPACES}",)
            ),
        ),
        (
            "minicpm5",
            PreTokenizer(
                (
                    r"\p{N}{1,3}",
                    rf"{_CONTRACTION}|{_WORD}|\p{{N}}+|{_SYMBOLS}|{_SPACES}",
                ),
                ignore_merges=True,
            ),
        ),
    )
    return {name: pre for names, pre in groups for name in names.split()}


PRE_TOKENIZERS: dict[str, PreTokenizer] = _table()


def find_pre_tokenizer(name: str | None) -> PreTokenizer:
    """The pre-tokenizer called `name`.

    A file without a name is refused: the fallback that llama.cpp takes (and warns about) splits
    most models' text in ways they never saw in training. A file that says "default" gets it.

    Raises:
        TokenizerError: The name is missing or unknown.
    """
    if name is None:
        raise TokenizerError(
            "tokenizer.ggml.pre is missing from the model file, so how to split text is not "
            "known; convert the model again with a current converter."
        )
    found = PRE_TOKENIZERS.get(name)
    if found is None:
        raise TokenizerError(
            f"Unknown pre-tokenizer {name!r} in tokenizer.ggml.pre; use a model with one of: "
            f"{', '.join(sorted(PRE_TOKENIZERS))}."
        )
    return found
