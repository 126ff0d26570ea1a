"""``generate``: text, JSON, where the prompt and the options come from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cli.running import Run, Start
from longbow_quarrel import LLM, EngineConfig, SamplingParams

GREEDY = ("--temp", "0", "-t", "1")


def test_prints_the_answer(cli: Run, llama3: Path) -> None:
    llm = LLM(llama3, config=EngineConfig(n_threads=1))
    params = SamplingParams(max_tokens=12, temperature=0)
    expected = llm.chat([{"role": "user", "content": "Hi"}], params)
    result = cli("generate", "Hi", "-m", llama3, "-n", 12, *GREEDY)
    assert (result.code, result.err) == (0, "")
    assert result.out.removesuffix("\n") == expected.text.removesuffix("\n")


def test_json_holds_everything(cli: Run, llama3: Path) -> None:
    result = cli("generate", "Hi", "-m", llama3, "-n", 5, "--json", *GREEDY)
    answer = json.loads(result.out)
    llm = LLM(llama3, config=EngineConfig(n_threads=1))
    assert answer["prompt_token_ids"] == llm.encode_chat([{"role": "user", "content": "Hi"}])
    assert len(answer["token_ids"]) == 5
    assert answer["text"] == llm.detokenize(answer["token_ids"])
    assert (answer["finish_reason"], answer["cached_tokens"]) == ("length", 0)
    assert answer["miss_reason"] == "empty"
    timings = answer["timings"]
    assert 0 < timings["ttft_seconds"] <= timings["total_seconds"]
    assert timings["prompt_tokens_per_second"] == pytest.approx(
        len(answer["prompt_token_ids"]) / timings["prefill_seconds"]
    )
    assert timings["decode_tokens_per_second"] == pytest.approx(4 / timings["decode_seconds"])


def test_raw_leaves_the_template_out(cli: Run, llama3: Path) -> None:
    answer = json.loads(cli("generate", "Hi", "-m", llama3, "-n", 1, "--raw", "--json").out)
    assert answer["prompt_token_ids"] == LLM(llama3).tokenize("Hi")


def test_a_model_without_template_continues_the_prompt(cli: Run, gemma3: Path) -> None:
    answer = json.loads(cli("generate", "Hi", "-m", gemma3, "-n", 1, "--json").out)
    assert answer["prompt_token_ids"] == LLM(gemma3).tokenize("Hi")


def test_system_message(cli: Run, llama3: Path) -> None:
    arguments = ("-m", llama3, "-n", 1, "--json", "--system", "Be brief.")
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    answer = json.loads(cli("generate", "Hi", *arguments).out)
    assert answer["prompt_token_ids"] == LLM(llama3).encode_chat(messages)


def test_the_same_seed_gives_the_same_text(cli: Run, llama3: Path) -> None:
    def ids(seed: int) -> list[int]:
        arguments = ("-m", llama3, "-n", 20, "--temp", 2, "--seed", seed, "--json")
        return json.loads(cli("generate", "Hi", *arguments).out)["token_ids"]

    assert ids(1) == ids(1) != ids(2)


def test_timings_are_printed_on_request(cli: Run, llama3: Path) -> None:
    result = cli("generate", "Hi", "-m", llama3, "-n", 5, "--verbose", *GREEDY)
    assert "5 generated" in result.err
    assert "tokens/s" in result.err
    assert "tokens/s" not in result.out


@pytest.mark.parametrize("arguments", [(), ("-",)])
def test_reads_standard_input(process: Run, gemma3: Path, arguments: tuple[str, ...]) -> None:
    result = process("generate", *arguments, "-m", gemma3, "-n", 1, "--json", input="Hé\nho\n")
    answer = json.loads(result.out)
    assert answer["prompt_token_ids"] == LLM(gemma3).tokenize("Hé\nho")


def test_text_comes_as_it_is_made(start: Start, llama3: Path) -> None:
    long = ("-c", 100_000, "-n", 90_000)
    process = start("generate", "Hi", "--raw", "-m", llama3, *long, *GREEDY)
    assert process.stdout is not None
    assert process.stdout.read(4)  # comes long before 90,000 tokens are there
    assert process.poll() is None


def test_flag_environment_file_default(
    cli: Run, llama3: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def n_tokens(*arguments: object) -> int:
        answer = cli("generate", "Hi", "--json", "--temp", 0, *arguments)
        return len(json.loads(answer.out)["token_ids"])

    (tmp_path / "quarrel.toml").write_text(f'model = "{llama3}"\nmax_tokens = 3\n')
    assert n_tokens() == 3
    monkeypatch.setenv("QUARREL_MAX_TOKENS", "4")
    assert n_tokens() == 4
    assert n_tokens("-n", 5) == 5


@pytest.mark.parametrize("kv_type", ["f32", "F16"])
def test_engine_options_reach_the_engine(cli: Run, llama3: Path, kv_type: str) -> None:
    result = cli(
        *("generate", "Hi", "-m", llama3, "-n", 2, "-c", 64, "-t", 2, "-ctk", kv_type, "-ctv"),
        *(kv_type, "--cache", "contiguous", "--block-size", 32, "--kv-cache-memory", "1MiB"),
        *("--device", "cpu", "--memory-limit", "64MiB", "--max-num-seqs", 1, "--top-k", 3),
        *("--max-num-batched-tokens", 7, "--top-p", 0.9, "--min-p", 0.1),
        *("--repetition-penalty", 1.1, "--no-prefix-caching", "--json"),
    )
    assert (result.code, result.err) == (0, "")
    assert json.loads(result.out)["miss_reason"] == "disabled"


def test_prompt_cache_starts_where_it_ended(process: Run, gemma3: Path, tmp_path: Path) -> None:
    arguments = ("--raw", "-m", gemma3, "-n", 4, "--json", "--temp", 0, "--cache", "paged")
    cache = ("--prompt-cache", tmp_path / "prompt.kv")
    words = "one two three four five six seven"
    first = json.loads(process("generate", words, *arguments, *cache).out)
    again = json.loads(process("generate", words, *arguments, *cache).out)
    assert (first["cached_tokens"], first["miss_reason"]) == (0, "empty")
    assert again["cached_tokens"] == len(again["prompt_token_ids"]) - 1
    assert again["token_ids"] == first["token_ids"]
    longer = json.loads(process("generate", words + first["text"], *arguments, *cache).out)
    assert longer["cached_tokens"] >= len(first["prompt_token_ids"])


def test_prompt_cache_of_another_model_is_refused(
    cli: Run, gemma3: Path, llama3: Path, tmp_path: Path
) -> None:
    cache = ("--prompt-cache", tmp_path / "prompt.kv", "--raw", "-n", 1)
    assert cli("generate", "Hi", "-m", llama3, *cache).code == 0
    before = (tmp_path / "prompt.kv").read_bytes()
    refused = cli("generate", "Hi", "-m", gemma3, *cache)
    assert refused.code == 1
    assert "was saved with model" in refused.err
    assert (tmp_path / "prompt.kv").read_bytes() == before


def test_prefix_cache_file_outlives_the_process(process: Run, gemma3: Path, tmp_path: Path) -> None:
    file = tmp_path / "prefixes.kv"
    arguments = ("--raw", "-m", gemma3, "-n", 2, "--json", "--temp", 0, "--prefix-cache-file", file)
    first = json.loads(process("generate", "one two three four", *arguments).out)
    second = json.loads(process("generate", "one two three four", *arguments).out)
    assert first["cached_tokens"] == 0
    assert second["cached_tokens"] == len(first["prompt_token_ids"]) - 1
    assert second["token_ids"] == first["token_ids"]
