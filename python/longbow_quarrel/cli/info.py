"""``info``: what a model file holds, without loading it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from longbow_quarrel.cli import loading, report
from longbow_quarrel.cli.options import Flags, ModelArgument, configured
from longbow_quarrel.config import SourceConfig
from longbow_quarrel.errors import QuarrelError

if TYPE_CHECKING:
    from longbow_quarrel import _core

_KV_TYPES = ("f32", "f16", "bf16", "q8_0", "q4_0")
_BLOCK_SIZE = 16  # the bytes of a token do not depend on it


@configured(SourceConfig)
def info(
    flags: Flags,
    argument: ModelArgument = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show a model's architecture, sizes, tensor types, tokenizer and KV bytes per token."""
    path = loading.fetch(flags.load(SourceConfig), argument)

    from longbow_quarrel import _core

    facts = _facts(_core.GGUFFile(str(path)))
    if as_json:
        print(json.dumps(facts, indent=2))
    else:
        _print(facts)


def _facts(file: _core.GGUFFile) -> dict[str, Any]:
    tensors = file.tensors
    return {
        "path": file.path,
        "name": file.get("general.name"),
        "licence": file.get("general.license"),
        "gguf_version": file.version,
        "n_files": file.n_splits,
        "file_bytes": file.file_bytes,
        "n_tensors": len(tensors),
        "n_parameters": sum(t.n_elements for t in tensors),
        "tensor_types": _tensor_types(tensors),
        **_architecture(file),
        "tokenizer": _tokenizer(file),
        "chat_template": bool(file.get("tokenizer.chat_template")),
    }


def _tensor_types(tensors: list[_core.TensorInfo]) -> dict[str, dict[str, int]]:
    types: dict[str, dict[str, int]] = {}
    for tensor in tensors:
        of_type = types.setdefault(tensor.dtype, {"n_tensors": 0, "n_bytes": 0})
        of_type["n_tensors"] += 1
        of_type["n_bytes"] += tensor.n_bytes
    return dict(sorted(types.items(), key=lambda item: -item[1]["n_bytes"]))


def _architecture(file: _core.GGUFFile) -> dict[str, Any]:
    """What this engine makes of the model, or why it cannot run it."""
    import dataclasses

    from longbow_quarrel import _core, models

    architecture = file.get("general.architecture")
    try:
        parameters, program = models.record(file)
    except QuarrelError as e:
        return {"architecture": architecture, "supported": False, "reason": str(e)}
    device = _core.CpuDevice(1)
    return {
        "architecture": architecture,
        "supported": True,
        "hyperparameters": dataclasses.asdict(parameters),
        "attention": [{"window": g.window or None, "layers": g.layers} for g in program.groups],
        "weight_bytes": program.weight_bytes,
        "kv_bytes_per_token": {
            kv_type: sum(device.kv_block_bytes(program, _BLOCK_SIZE, kv_type, kv_type))
            // _BLOCK_SIZE
            for kv_type in _KV_TYPES
        },
    }


def _tokenizer(file: _core.GGUFFile) -> dict[str, Any]:
    from longbow_quarrel.tokenizer import Tokenizer

    try:
        tokenizer = Tokenizer.from_metadata(file.metadata)
    except QuarrelError as e:
        return {"supported": False, "reason": str(e)}
    return {
        "supported": True,
        "model": tokenizer.model,
        "pre": tokenizer.pre,
        "vocab_size": tokenizer.vocab_size,
        "adds_bos": tokenizer.add_bos,
        "bos_id": tokenizer.bos_id,
        "eos_id": tokenizer.eos_id,
        "eog_ids": sorted(tokenizer.eog_ids),
    }


def _print(facts: dict[str, Any]) -> None:
    rows = [("file", f"{facts['path']} ({report.size(facts['file_bytes'])})")]
    rows += [(key, str(facts[key])) for key in ("name", "licence") if facts[key]]
    rows.append(("architecture", facts["architecture"] or "none"))
    if facts["supported"]:
        rows += _supported_rows(facts)
    else:
        rows.append(("not supported", facts["reason"]))
    rows.append(("parameters", f"{facts['n_parameters']:,} in {facts['n_tensors']} tensors"))
    rows += [
        (f"  {name}", f"{t['n_tensors']} tensors, {report.size(t['n_bytes'])}")
        for name, t in facts["tensor_types"].items()
    ]
    rows.append(("tokenizer", _tokenizer_text(facts["tokenizer"])))
    rows.append(("chat template", "yes" if facts["chat_template"] else "no"))
    for key, value in rows:
        print(f"{key:<20} {value}")


def _supported_rows(facts: dict[str, Any]) -> list[tuple[str, str]]:
    h = facts["hyperparameters"]
    spans = ", ".join(
        f"{len(g['layers'])} layers "
        + ("see all tokens" if g["window"] is None else f"see the last {g['window']}")
        for g in facts["attention"]
    )
    per_token = facts["kv_bytes_per_token"]
    return [
        ("layers", str(h["n_layers"])),
        ("width", f"{h['n_embd']}, feed-forward {h['n_ff']}"),
        ("heads", f"{h['n_heads']} query, {h['n_kv_heads']} KV, of {h['head_dim']}"),
        ("attention", spans),
        ("context length", f"{h['context_length']} tokens"),
        ("KV bytes per token", ", ".join(f"{n} {kv_type}" for kv_type, n in per_token.items())),
    ]


def _tokenizer_text(tokenizer: dict[str, Any]) -> str:
    if not tokenizer["supported"]:
        return f"not supported: {tokenizer['reason']}"
    pre = f", pre-tokenizer {tokenizer['pre']}" if tokenizer["pre"] else ""
    return f"{tokenizer['model']}{pre}, {tokenizer['vocab_size']} tokens"
