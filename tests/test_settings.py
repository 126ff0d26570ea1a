"""Fields are read as pydantic, in its lax mode, reads them."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from longbow_quarrel.config import EngineConfig
from longbow_quarrel.errors import UsageError
from longbow_quarrel.settings import Field, Secret, Section


class Everything(Section):
    whole: int = Field(1, ge=0, le=99, multiple_of=3, description="")
    number: float = Field(1.0, gt=0, description="")
    switch: bool = Field(False, description="")
    text: str | None = Field(None, description="")
    path: Path | None = Field(None, description="")
    choice: Literal["a", "b"] = Field("a", description="")
    size: int | Literal["auto"] = Field("auto", description="")
    key: Secret | None = Field(None, description="")


ORACLES: dict[str, pydantic.TypeAdapter[Any]] = {
    "whole": pydantic.TypeAdapter(Annotated[int, pydantic.Field(ge=0, le=99, multiple_of=3)]),
    "number": pydantic.TypeAdapter(Annotated[float, pydantic.Field(gt=0)]),
    "switch": pydantic.TypeAdapter(bool),
    "text": pydantic.TypeAdapter(str | None),
    "path": pydantic.TypeAdapter(Path | None),
    "choice": pydantic.TypeAdapter(Literal["a", "b"]),
    "size": pydantic.TypeAdapter(int | Literal["auto"]),
}
VALUES = (
    st.none()
    | st.booleans()
    | st.integers(-5, 110)
    | st.sampled_from([0.0, 1.0, 2.5, 3.0, -1.0, float("nan"), float("inf")])
    | st.sampled_from(["", "a", "b", "A", "auto", "3", "-3", "2.5", "1e3", "yes", "Off", "TRUE"])
    | st.sampled_from([Path("a/b"), [], b"3", object()])
)


@example("whole", "x")
@given(st.sampled_from(sorted(ORACLES)), VALUES)
def test_reads_what_pydantic_reads(name: str, value: object) -> None:
    if isinstance(value, bytes):
        return  # pydantic takes them for text; a configuration has none
    try:
        expected = ORACLES[name].validate_python(value)
    except pydantic.ValidationError as e:
        first = e.errors()[0]["msg"]
        words = first[0].lower() + first[1:].partition("<class")[0].rstrip(" for")
        with pytest.raises(UsageError) as raised:
            Everything(**{name: value})
        if isinstance(value, (str, int, float)) and name != "size":
            assert str(raised.value).startswith(f"{name}: {words}")
    else:
        found = getattr(Everything(**{name: value}), name)
        assert (found, type(found)) == (expected, type(expected)) or found != found


def test_a_secret_is_not_shown() -> None:
    config = Everything(key="hunter2")
    assert config.key is not None
    assert config.key.get_secret_value() == "hunter2"
    assert "hunter2" not in repr(config)
    assert config == Everything(key=Secret("hunter2")) != Everything(key="hunter3")


def test_copies() -> None:
    config = EngineConfig(block_size="32", n_threads=2)
    assert config.model_fields_set == {"block_size", "n_threads"}
    other = config.model_copy(update={"block_size": 64})
    assert (other.block_size, other.n_threads, config.block_size) == (64, 2, 32)
    assert EngineConfig(**config.model_dump()) == config == copy.deepcopy(config)
    assert pickle.loads(pickle.dumps(config)) == config
    assert hash(EngineConfig()) == hash(EngineConfig())
    with pytest.raises(UsageError, match="block_size"):
        config.model_copy(update={"block_size": 3})
    with pytest.raises(AttributeError, match="model_copy"):
        config.block_size = 16
