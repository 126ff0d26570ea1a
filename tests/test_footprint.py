"""What a process loads and holds beside weights and K and V."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

# Each takes as long to import, or as much memory, as all of this package.
HEAVY = (
    *("fastapi", "huggingface_hub", "importlib.metadata", "jinja2", "numpy", "platformdirs"),
    *("prometheus_client", "pydantic", "requests", "rich", "tokenizers", "typer", "zipfile"),
)
MODULES = "import sys; found = [m for m in HEAVY if m in sys.modules]; assert not found, found"
# As benchmarks/compare_llamacpp.py measures it, with text in place of token ids.
RESIDENT = """
import json, sys
from longbow_quarrel import LLM, EngineConfig, SamplingParams
llm = LLM(sys.argv[1], config=EngineConfig(n_threads=2, context_length=1024, max_num_seqs=1))
llm.tokenize("The cat sat on the mat.")
llm.generate([[5 + i % 100 for i in range(1000)]], SamplingParams(max_tokens=16, ignore_eos=True))
resident = next(x for x in open("/proc/self/status") if x.startswith("VmRSS")).split()[1]
kinds = llm.stats()["memory"]["by_kind"]
print(json.dumps(int(resident) * 1024 - kinds["weights"] - kinds["kv"]))
"""


def _run(code: str, *arguments: object) -> str:
    command = [sys.executable, "-c", code.replace("HEAVY", repr(HEAVY)), *map(str, arguments)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120, env=os.environ)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_text_from_token_ids_needs_no_large_package(tiny_model_path) -> None:
    """The tokenizer of this model is byte-level BPE, whose library comes with the first text."""
    _run(
        "import sys\n"
        "from longbow_quarrel import LLM, EngineConfig, SamplingParams\n"
        "llm = LLM(sys.argv[1], config=EngineConfig(n_threads=1))\n"
        "for _ in llm.stream([5, 6, 7], SamplingParams(max_tokens=4, seed=1)): pass\n" + MODULES,
        tiny_model_path("qwen2"),
    )


def test_text_of_a_sentencepiece_model_needs_none_either(tiny_model_path) -> None:
    _run(
        "import sys\n"
        "from longbow_quarrel.cli import main\n"
        "assert main(['generate', 'Hi', '-m', sys.argv[1], '-n', '2', '-t', '1']) == 0\n" + MODULES,
        tiny_model_path("gemma3"),
    )


def test_the_package_itself_imports_almost_nothing() -> None:
    """Until the command line heeds Ctrl-C nothing of ours may take long."""
    out = _run(
        "import sys; before = set(sys.modules); import longbow_quarrel.cli\n"
        "print(*sorted(set(sys.modules) - before))"
    )
    assert len(out.split()) < 30, out


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("model", ["smollm2_path", "gemma3_path"])
def test_resident_memory_beyond_weights_and_kv(model: str, request) -> None:
    """60 MB is the bound of the project's plan."""
    assert json.loads(_run(RESIDENT, request.getfixturevalue(model))) <= 60e6


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_resident_memory_of_a_tiny_model(tiny_model_path) -> None:
    assert json.loads(_run(RESIDENT, tiny_model_path("gemma3"))) <= 40e6
