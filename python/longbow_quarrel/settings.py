"""Groups of settings: fields with types, defaults and bounds, checked when a group is made.

Rules and words are pydantic's, so that text is read as what a field wants (``"3"`` as 3,
``"yes"`` as True). Its import alone would take as long as reading a small model, and the command
line should have answered by then.
"""

from __future__ import annotations

import dataclasses
import math
import operator
import os
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from longbow_quarrel.errors import UsageError

Self = TypeVar("Self", bound="Section")

_TRUE = frozenset({1, "1", "t", "true", "y", "yes", "on"})
_FALSE = frozenset({0, "0", "f", "false", "n", "no", "off"})


class Secret:
    """Text that must not appear in a log."""

    def __init__(self, value: str) -> None:
        self._value = value

    def get_secret_value(self) -> str:
        return self._value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)

    def __repr__(self) -> str:
        return "Secret('**********')"


@dataclass(frozen=True)
class FieldInfo:
    """What is known of a field.

    Attributes:
        annotation: its type, of those that :func:`_read` knows.
        parse: applied first; raises ValueError.
    """

    default: Any
    description: str
    ge: float | None
    gt: float | None
    le: float | None
    multiple_of: int | None
    parse: Callable[[object], object] | None
    annotation: Any = None

    def checked(self, value: object) -> Any:
        """``value`` as the field's type. Raises ValueError."""
        found = _read(self.annotation, self.parse(value) if self.parse else value)
        if isinstance(found, (int, float)) and not isinstance(found, bool):
            self._check_bounds(found)
        return found

    def _check_bounds(self, value: float) -> None:
        if self.multiple_of is not None and value % self.multiple_of:
            raise ValueError(f"Input should be a multiple of {self.multiple_of}")
        if self.le is not None and not value <= self.le:
            raise ValueError(f"Input should be less than or equal to {self.le}")
        if self.ge is not None and not value >= self.ge:
            raise ValueError(f"Input should be greater than or equal to {self.ge}")
        if self.gt is not None and not value > self.gt:
            raise ValueError(f"Input should be greater than {self.gt}")


def Field(
    default: Any,
    *,
    description: str,
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    multiple_of: int | None = None,
    parse: Callable[[object], object] | None = None,
) -> Any:
    """Declare a field of a :class:`Section`; bounds are for numbers."""
    return FieldInfo(default, description, ge, gt, le, multiple_of, parse)


class Section:
    """Base of a group of settings. Unknown keys and values that do not fit raise ``UsageError``.

    Attributes:
        model_fields: the fields by name, in the order in which they are declared.
        model_fields_set: names of those that were given.
    """

    model_fields: ClassVar[dict[str, FieldInfo]] = {}
    model_fields_set: frozenset[str]

    def __init_subclass__(cls) -> None:
        declared = {k: v for k, v in vars(cls).items() if isinstance(v, FieldInfo)}
        hints = get_type_hints(cls)
        cls.model_fields = cls.model_fields | {
            name: dataclasses.replace(field, annotation=hints[name])
            for name, field in declared.items()
        }
        for name, field in declared.items():
            setattr(cls, name, field.default)

    def __init__(self, **values: Any) -> None:
        fields = self.model_fields
        for name in values:
            if name not in fields:
                hint = suggestion(name, list(fields))
                raise UsageError(f"{type(self).__name__} has no option {name!r}{hint}")
        for name, field in fields.items():
            value = _checked(name, field, values[name]) if name in values else field.default
            object.__setattr__(self, name, value)
        object.__setattr__(self, "model_fields_set", frozenset(values))

    def model_dump(self) -> dict[str, Any]:
        """All fields and their values."""
        return {name: getattr(self, name) for name in self.model_fields}

    def model_copy(self: Self, *, update: Mapping[str, Any] | None = None) -> Self:
        """A copy in which ``update`` replaces some values, checked like all."""
        given = {name: getattr(self, name) for name in self.model_fields_set}
        return type(self)(**(given | dict(update or {})))

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__} cannot be changed; use model_copy.")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{type(self).__name__} cannot be changed; use model_copy.")

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return self.model_dump() == other.model_dump()

    def __hash__(self) -> int:
        return hash((type(self), *self.model_dump().values()))

    def __repr__(self) -> str:
        values = ", ".join(f"{name}={value!r}" for name, value in self.model_dump().items())
        return f"{type(self).__name__}({values})"


def suggestion(key: str, known: list[str]) -> str:
    """What to write in place of an unknown key."""
    import difflib

    near = difflib.get_close_matches(key, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(known)}"


def _checked(name: str, field: FieldInfo, value: object) -> Any:
    try:
        return field.checked(value)
    except ValueError as e:
        reason = str(e)
        raise UsageError(f"{name}: {reason[:1].lower()}{reason[1:]}, got {value!r}.") from None


def _read(annotation: Any, value: object) -> Any:
    """``value`` as what an annotation says: a type, a Literal or a union of them.

    Raises:
        ValueError: it cannot be read so.
    """
    origin = get_origin(annotation)
    if origin in (Union, types.UnionType):
        return _read_union(get_args(annotation), value)
    if origin is Literal:
        return _read_literal(get_args(annotation), value)
    read: Callable[[object], Any] = _READERS[annotation]
    return read(value)


def _read_union(alternatives: tuple[Any, ...], value: object) -> Any:
    if value is None and type(None) in alternatives:
        return None
    first: ValueError | None = None
    for alternative in alternatives:
        if alternative is type(None):
            continue
        try:
            return _read(alternative, value)
        except ValueError as e:
            first = first or e
    assert first is not None
    raise first


def _read_literal(choices: tuple[Any, ...], value: object) -> Any:
    if isinstance(value, str) and value in choices:
        return value
    *others, last = map(repr, choices)
    expected = f"{', '.join(others)} or {last}" if others else last
    raise ValueError(f"Input should be {expected}")


def _read_int(value: object) -> int:
    if isinstance(value, str):
        try:
            return int(value)
        except ValueError:
            raise ValueError(
                "Input should be a valid integer, unable to parse string as an integer"
            ) from None
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError("Input should be a finite number")
        if not value.is_integer():
            raise ValueError("Input should be a valid integer, got a number with a fractional part")
        return int(value)
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise ValueError("Input should be a valid integer") from None


def _read_float(value: object) -> float:
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            raise ValueError(
                "Input should be a valid number, unable to parse string as a number"
            ) from None
    try:
        return float(value)  # type: ignore[arg-type]
    except TypeError:
        raise ValueError("Input should be a valid number") from None


def _read_bool(value: object) -> bool:
    word = value.lower() if isinstance(value, str) else value
    if isinstance(word, (str, int, float)) and word in _TRUE | _FALSE:
        return word in _TRUE
    raise ValueError("Input should be a valid boolean, unable to interpret input")


def _read_str(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("Input should be a valid string")
    return value


def _read_path(value: object) -> Path:
    if not isinstance(value, (str, os.PathLike)):
        raise ValueError("Input is not a valid path")
    return Path(value)


def _read_secret(value: object) -> Secret:
    return value if isinstance(value, Secret) else Secret(_read_str(value))


_READERS: dict[Any, Callable[[Any], Any]] = {
    int: _read_int,
    float: _read_float,
    bool: _read_bool,
    str: _read_str,
    Path: _read_path,
    Secret: _read_secret,
}
