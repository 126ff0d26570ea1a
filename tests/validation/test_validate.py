"""The gate opens for a right engine and stays shut for planted faults."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from cli.running import Run
from evaluation import llama_file
from gguf import GGUFReader
from longbow_quarrel.evaluation.logits_base import LogitsBase
from longbow_quarrel.validation import reference as references
from longbow_quarrel.validation.reference import ReferenceData
from reference_model import ReferenceModel
from validation.conftest import LONG, MODEL, N_CTX

# Other tests of the same process may have registered more.
BUILT_IN = ("--strategies", "contiguous,paged,sliding_window")
QUALITY = "greedy,perplexity,divergence,coherence"
WRONG_BLOCKS = '''
from longbow_quarrel.cache import register_strategy
from longbow_quarrel.strategy import BlockStrategy


class WrongBlocks(BlockStrategy):
    """A text's first two blocks are one and the same."""

    def __init__(self, config):
        super().__init__("wrong_blocks", config)
        self._free = list(range(self.n_total))

    def take(self, n):
        if n > len(self._free):
            return None
        taken, self._free = self._free[:n], self._free[n:]
        return taken

    def give_back(self, blocks):
        self._free = blocks + self._free

    def block_tables(self, sequence):
        tables = super().block_tables(sequence)
        if len(tables[0]) > 1 and FAULTY:
            tables = [[t[0], t[0], *t[2:]] for t in tables]
        return tables


register_strategy("wrong_blocks", WrongBlocks)
'''


def results(path: Path) -> dict[str, str]:
    [model] = json.loads(path.read_text())["models"]
    return {check["name"]: check["status"] for check in model["checks"]}


def test_a_right_engine_passes(cli: Run, reference: Path, tmp_path: Path) -> None:
    result = cli("validate", MODEL, "--reference", reference, *BUILT_IN, "-t", 2)
    assert result.code == 0, result.out + result.err
    assert result.err == ""
    assert result.out.endswith("All bounds hold.\n")
    assert results(tmp_path / "validation.json") == {
        "greedy outputs": "holds",
        "perplexity": "holds",
        "KL divergence by depth": "holds",
        "coherence": "holds",
        "speed": "skipped",
        "beside llama.cpp": "skipped",
    }
    report = json.loads((tmp_path / "validation.json").read_text())
    [model] = report["models"]
    coherence = next(c for c in model["checks"] if c["name"] == "coherence")
    assert {"paged, warm", "sliding_window, one by one", "one thread", "prefilled as a whole"} <= {
        row["variant"] for row in coherence["rows"]
    }
    page = (tmp_path / "validation.html").read_text()
    assert page.count("<svg") == 2
    assert "&lt;svg" not in page
    text = (tmp_path / "validation.md").read_text()
    for part in ("All bounds hold.", "| tiny | coherence | holds |", "validation-divergence.svg"):
        assert part in text
    for line in text.splitlines():
        if line.startswith("| tiny"):
            assert line.count("|") == 5
    assert (tmp_path / "validation-speed.svg").exists()
    assert "No baseline exists" in result.out


@pytest.mark.usefixtures("metal")
def test_the_metal_device_passes(cli: Run, reference: Path, tmp_path: Path) -> None:
    """The command for the first person with a Mac."""
    chosen = ("--only", QUALITY, "--strategies", "contiguous,paged", "--device", "metal")
    result = cli("validate", MODEL, "--reference", reference, *chosen)
    assert result.code == 0, result.out + result.err
    assert set(results(tmp_path / "validation.json").values()) == {"holds"}
    assert "; metal" in (tmp_path / "validation.md").read_text()


@pytest.mark.parametrize("faulty", [False, True])
def test_a_strategy_with_wrong_blocks(
    process: Run, reference: Path, tmp_path: Path, faulty: bool
) -> None:
    plugin = tmp_path / "wrong_blocks.py"
    plugin.write_text(WRONG_BLOCKS.replace("FAULTY", str(faulty)))
    result = process(
        *("validate", MODEL, "--reference", reference, "--plugin", plugin, "--only", QUALITY),
        *("--strategies", "contiguous,wrong_blocks", "-t", 2),
    )
    found = results(tmp_path / "validation.json")
    assert result.code == (1 if faulty else 0), result.out + result.err
    if faulty:
        assert {"perplexity", "KL divergence by depth", "coherence"} <= {
            name for name, status in found.items() if status == "broken"
        }
        assert "wrong_blocks gives another number than contiguous" in result.out
        assert "BROKEN" in (tmp_path / "validation.md").read_text()
    else:
        assert set(found.values()) == {"holds"}


def test_a_weight_that_was_changed(cli: Run, reference: Path, tmp_path: Path) -> None:
    """Coherent, but not the model that it was."""
    model = tmp_path / "model.gguf"
    shutil.copy(MODEL, model)
    reader = GGUFReader(model, "r+")
    norm = next(t for t in reader.tensors if t.name == "blk.1.ffn_norm.weight")
    norm.data[:8] *= np.float32(1.5)
    reader.data.flush()
    result = cli("validate", model, "--reference", reference, "--only", QUALITY, *BUILT_IN)
    assert result.code == 1
    found = results(tmp_path / "validation.json")
    assert found["KL divergence by depth"] == "broken"
    assert found["coherence"] == "holds"
    assert "KL divergence by depth" in result.out.splitlines()[-1]


def test_an_exception_in_a_check_breaks_it(cli: Run, reference: Path, tmp_path: Path) -> None:
    folder = tmp_path / "damaged"
    shutil.copytree(reference.parent, folder)
    base = folder / "tiny.logits"
    base.write_bytes(base.read_bytes()[:-9])
    arguments = ("validate", MODEL, "--reference", folder / "tiny.json", "--only", "divergence")
    result = cli(*arguments)
    assert result.code == 1
    assert "LogitsBaseError" in result.out
    assert (tmp_path / "validation.md").exists()


def test_speeds_are_stored_and_a_regression_names_its_operation(cli: Run, tmp_path: Path) -> None:
    speed = ("validate", MODEL, "--only", "speed", "--strategies", "contiguous", "-t", 2)
    (tmp_path / "empty.json").write_text('{"entries": []}')  # not the packaged one
    new = ("--baseline", "empty.json", "--write-baseline", "speeds.json")
    for extend in ((), ("--extend",)):
        assert cli(*speed, *new, *extend).code == 0
    stored = json.loads((tmp_path / "speeds.json").read_text())
    [entry] = stored["entries"]
    assert [row["label"] for row in entry["rows"]][:2] == ["pp512", "tg64"]
    for row in entry["rows"]:
        assert len(row.pop("runs")) == 2
        row["samples"] = [1000 * s for s in row["samples"]]
        for name in row["stages"]:
            row["stages"][name] /= 1 if "attention" in name else 1000
    (tmp_path / "speeds.json").write_text(json.dumps(stored))
    result = cli(*speed, "--baseline", "speeds.json", "--json")
    assert result.code == 1
    [model] = json.loads(result.out)["models"]
    [check] = model["checks"]
    assert check["status"] == "broken"
    assert "us per token instead of" in check["found"]
    entry["machine"]["cpu"] = "another"
    (tmp_path / "speeds.json").write_text(json.dumps(stored))
    result = cli(*speed, "--baseline", "speeds.json")
    assert result.code == 0
    assert "No baseline exists" in result.out
    assert "--write-baseline" in result.out


def fake_llamacpp(folder: Path, reference: Path, speed: float, noise: float) -> Path:
    """Programs that answer as llama.cpp's do, with the exact predictions, ``noise`` off."""
    data = ReferenceData(reference)
    exact = LogitsBase(data.base_path)
    model, draw = ReferenceModel(MODEL), np.random.default_rng(0)
    tokens, logits = [], []
    for chunk in list(exact.chunks())[: LONG // N_CTX]:
        shown = [2, *chunk.tokens[1:].tolist()]
        rows = model.logits(shown, list(range(N_CTX // 2, N_CTX - 1)))
        tokens.append(chunk.tokens)
        logits.append(rows + noise * draw.standard_normal(rows.shape))
    folder.mkdir()
    llama_file.write(folder / "kept", N_CTX, exact.vocab_size, np.array(tokens), logits)
    for name, line in {
        "llama-bench": f"""echo '[{{"avg_ts": {speed}}}]'""",
        "llama-perplexity": f'cp "{folder / "kept"}" "${{@: -1}}"',
    }.items():
        (folder / name).write_text(f"#!/bin/bash\n{line}\n")
        (folder / name).chmod(0o755)
    return folder


@pytest.mark.parametrize(("speed", "code"), [(0.001, 0), (1e12, 1)])
def test_beside_llamacpp(
    cli: Run, reference: Path, tmp_path: Path, speed: float, code: int
) -> None:
    folder = fake_llamacpp(tmp_path / "bin", reference, speed, noise=0.1)
    result = cli(
        *("validate", MODEL, "--reference", reference, "--only", "llamacpp", "-t", 2),
        *("--llamacpp", folder, "--json"),
    )
    [model] = json.loads(result.out)["models"]
    [check] = model["checks"]
    assert result.code == code, check["found"]
    assert check["status"] == ("broken" if code else "holds")
    # Noise of variance v in every logit is a divergence of v / 2, a bit less with sharp rows.
    assert 0.002 < check["facts"]["kl_llamacpp"] < 0.006
    assert check["facts"]["kl_ours"] < 1e-4
    assert (tmp_path / "validation-llamacpp.svg").exists()


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("--only", "greedy,nothing"), "not 'nothing'"),
        (("--strategies", "fast"), "not 'fast'"),
        (("--llamacpp", "absent"), "has no llama-bench"),
        (("--baseline", "absent"), "absent cannot be read"),
        (("--reference", "absent.json"), "absent.json cannot be read"),
        (("--only", "coherence", "-o", "/proc/no/where"), "cannot be written"),
        (("--only", "coherence", "--write-baseline", "x"), "needs the check named speed"),
        (("--only", "speed", "--extend"), "goes with --write-baseline"),
    ],
)
def test_misuse(cli: Run, arguments: tuple[str, ...], part: str) -> None:
    result = cli("validate", MODEL, *arguments)
    assert result.code == 2
    assert part in result.err
    assert result.err.count("\n") == 1


def test_references_that_cannot_be_used(cli: Run, reference: Path, tmp_path: Path) -> None:
    folder = tmp_path / "other"
    shutil.copytree(reference.parent, folder)
    (folder / "text.txt").write_text("another text")
    arguments = ("validate", MODEL, "--reference", folder / "tiny.json")
    assert "made of another text" in cli(*arguments).err
    facts = json.loads((folder / "tiny.json").read_text())
    for change in ({"perplexity": "low"}, {"n_ctx": -1}, {"greedy": [{}]}, {"more": 1}):
        (folder / "tiny.json").write_text(json.dumps(facts | change))
        result = cli(*arguments)
        assert (result.code, result.err.count("\n")) == (2, 1)
        assert "is no reference" in result.err
    assert "name it" in cli("validate", "--reference", reference).err


def test_packaged_data_are_small_and_whole() -> None:
    from longbow_quarrel import sources

    files = [path for path in references.folder().rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 1_000_000
    for entry in sources.catalog():
        data = references.find(entry.sha256)
        assert data is not None
        assert data.reference.model == entry.name
        base = LogitsBase(data.base_path)
        depths = np.concatenate([chunk.positions + 1 for chunk in base.chunks()])
        assert depths.min() == 1
        assert depths.max() > 2000
        assert len(depths) > 500
        assert len(data.reference.greedy) == 6


@pytest.mark.slow
@pytest.mark.parametrize("path", ["smollm2_path", "gemma3_path"])
def test_real_models(cli: Run, path: str, request: pytest.FixtureRequest) -> None:
    result = cli(
        *("validate", request.getfixturevalue(path), "--only", "greedy,divergence"),
        *("--strategies", "paged", "-t", 2),
    )
    assert result.code == 0, result.out
