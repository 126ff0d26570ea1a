"""What models of the catalogue must compute, as shipped with this package.

``reference/NAME.json`` holds greedy continuations and a perplexity, ``reference/NAME.logits``
predictions at many depths (:mod:`longbow_quarrel.evaluation.logits_base`), all of
``reference/text.txt``, which was written for this. They come from an exact forward pass, see
``made_by`` and ``tests/data/make_validation_reference.py``.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from longbow_quarrel.errors import UsageError

TEXT = "text.txt"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Continuation(_Strict):
    """What follows a prompt when the likeliest token is always taken.

    Attributes:
        gaps: between the logits of the best and the second token, for each of ``token_ids``.
    """

    prompt: str
    prompt_token_ids: tuple[int, ...] = Field(min_length=1)
    token_ids: tuple[int, ...] = Field(min_length=1)
    gaps: tuple[float, ...]


class Reference(_Strict):
    """What one model must compute.

    Attributes:
        sha256: of the model's file.
        made_by: how, in words.
        perplexity: of the text's first ``n_chunks`` chunks of ``n_ctx`` tokens.
    """

    model: str
    sha256: str
    made_by: str
    text_sha256: str
    n_ctx: int = Field(ge=4)
    n_chunks: int = Field(ge=1)
    perplexity: float = Field(gt=1)
    greedy: tuple[Continuation, ...]


class ReferenceData:
    """A reference with its text and the path of its predictions.

    Raises:
        UsageError: a file lacks, or holds something else.
    """

    def __init__(self, path: Path) -> None:
        self.reference = _read(path)
        self.text = text(path.parent)
        self.base_path = path.with_suffix(".logits")
        digest = hashlib.sha256(self.text.encode()).hexdigest()
        if digest != self.reference.text_sha256:
            raise UsageError(f"{path} was made of another text than {TEXT} beside it.")


def folder() -> Path:
    """Where the package keeps its references."""
    return Path(__file__).parent / "reference"


def text(where: Path | None = None) -> str:
    """The text that references are about.

    Raises:
        UsageError: there is none.
    """
    path = (where or folder()) / TEXT
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise UsageError(f"{path} cannot be read; references need their text.") from None


def find(sha256: str) -> ReferenceData | None:
    """The packaged reference of the model file with this hash, if there is one."""
    for path in sorted(folder().glob("*.json")):
        if _read(path).sha256 == sha256:
            return ReferenceData(path)
    return None


def file_sha256(path: Path) -> str:
    """Of a file's bytes, in hex."""
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _read(path: Path) -> Reference:
    try:
        return Reference(**json.loads(path.read_text(encoding="utf-8")))
    except OSError as e:
        raise UsageError(f"{path} cannot be read ({e.strerror}); give a reference file.") from None
    except (ValueError, TypeError, ValidationError):
        raise UsageError(
            f"{path} is no reference; make one with tests/data/make_validation_reference.py."
        ) from None
