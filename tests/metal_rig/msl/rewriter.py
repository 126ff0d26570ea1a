"""Metal Shading Language to C++: what is not C++ in preprocessed source is taken out or replaced.

* ``device`` and ``thread`` vanish, ``constant`` becomes ``const``, ``[[...]]`` is read and dropped.
* ``threadgroup T x[N];`` becomes storage of the target, announced to its runtime.
* ``constant T NAME [[function_constant(i)]];`` becomes a constant read when the library is loaded.
* Literals without a suffix get an ``f``: Metal has no double.
* ``kernel`` definitions and explicit instantiations are recorded, with a slot for each parameter.

Line markers stay, so that the compiler's messages point into the .metal file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from metal_rig.msl.lexer import (
    MetalSyntaxError,
    Token,
    closing_index,
    is_attribute,
    join,
    next_index,
    previous_index,
    significant,
    split_attributes,
    split_list,
    tokenize,
)

# The order is that of enum __msl_slot_kind in msl_entry.h.
SLOT_KINDS = (
    "buffer",
    "threadgroup",
    "thread_position_in_grid",
    "threadgroup_position_in_grid",
    "thread_position_in_threadgroup",
    "threads_per_threadgroup",
    "dispatch_threads_per_threadgroup",
    "threads_per_grid",
    "threadgroups_per_grid",
    "thread_index_in_simdgroup",
    "simdgroup_index_in_threadgroup",
    "simdgroups_per_threadgroup",
    "threads_per_simdgroup",
    "thread_index_in_threadgroup",
)
_ALIASES = {"thread_execution_width": "threads_per_simdgroup"}
_ERASED = {"device", "thread"}
# An unsuffixed literal: a double in C++, a float in Metal. (clang's -cl-single-precision-constant
# forgets about it when it instantiates a template.)
_DOUBLE = re.compile(r"(\d+\.\d*|\.\d+)([eE][+-]?\d+)?|\d+[eE][+-]?\d+")


@dataclass(frozen=True)
class Slot:
    """Where one kernel parameter comes from. ``writable`` means something for buffers only."""

    kind: str
    index: str = "0"  # a C++ expression: shaders use enumerators
    writable: bool = False

    @property
    def code(self) -> str:
        """The number of msl_entry.h as a C++ expression."""
        return f"{SLOT_KINDS.index(self.kind) * 256} + ({self.index})"

    @property
    def signature(self) -> str:
        """The number of msl_abi.h as a C++ expression."""
        return f"{self.code} + {65536 if self.writable else 0}"


@dataclass(frozen=True)
class Export:
    """A kernel that the host can name. ``expression`` names it in C++, template arguments too."""

    host_name: str
    expression: str
    base_name: str


@dataclass
class Rewritten:
    text: str
    kernels: dict[str, list[Slot]]
    exports: list[Export]


def parse_parameters(tokens: list[Token]) -> list[Slot]:
    """The slots of a kernel's parameter list. Unnumbered buffers take the next free index."""
    slots: list[Slot] = []
    next_free = {"buffer": "0", "threadgroup": "0"}
    for parameter in split_list(tokens):
        body, attributes = split_attributes(parameter)
        words = {t.text for t in significant(body)}
        slot = _slot_of(words, attributes, next_free)
        if slot is None:
            raise MetalSyntaxError(f"kernel parameter without a place: {join(parameter)}")
        if slot.kind in next_free:
            next_free[slot.kind] = f"{slot.index} + 1"
        slots.append(slot)
    return slots


def _slot_of(words: set[str], attributes: list[str], next_free: dict[str, str]) -> Slot | None:
    writable = "device" in words and "const" not in words
    for attribute in attributes:
        numbered = re.fullmatch(r"(buffer|threadgroup)\((.+)\)", attribute)
        if numbered:
            return Slot(numbered[1], numbered[2], writable)
        name = _ALIASES.get(attribute, attribute)
        if name in SLOT_KINDS:
            return Slot(name)
    if words & {"device", "constant"}:
        return Slot("buffer", next_free["buffer"], writable)
    if "threadgroup" in words:
        return Slot("threadgroup", next_free["threadgroup"])
    return None


@dataclass
class Rewriter:
    """One pass over the tokens. ``threadgroup_storage`` declares a threadgroup variable."""

    tokens: list[Token]
    threadgroup_storage: str
    output: list[str] = field(default_factory=list)
    kernels: dict[str, list[Slot]] = field(default_factory=dict)
    exports: list[Export] = field(default_factory=list)
    depth: int = 0
    host_name: str | None = None

    def run(self) -> Rewritten:
        i = 0
        while i < len(self.tokens):
            i = self._step(i)
        return Rewritten("".join(self.output), self.kernels, self.exports)

    def _step(self, i: int) -> int:
        """Handles the token at i; returns the index of the next one to look at."""
        token = self.tokens[i]
        if token.blank:
            self.output.append(token.text)
            return i + 1
        if is_attribute(self.tokens, i):
            return self._attribute(i)
        if token.kind == "word":
            handler = {
                "template": self._template,
                "kernel": self._kernel,
                "threadgroup": self._threadgroup,
                "constant": self._constant,
                "is_function_constant_defined": self._constant_defined,
            }.get(token.text)
            if handler is not None:
                return handler(i)
            if token.text in _ERASED:
                return i + 1
        if token.kind == "number" and _DOUBLE.fullmatch(token.text):
            self.output.append(f"{token.text}f")
            return i + 1
        self.depth += {"{": 1, "}": -1}.get(token.text, 0)
        self.output.append(token.text)
        return i + 1

    def _attribute(self, i: int) -> int:
        end = closing_index(self.tokens, i)
        _, attributes = split_attributes(self.tokens[i : end + 1])
        for attribute in attributes:
            if attribute.startswith("host_name("):
                self.host_name = _string(attribute)
        if "kernel" in attributes:  # attribute style: as if the keyword stood here
            self._record_kernel(end + 1, previous_index(self.tokens, i - 1))
            self.output.append(" static")
        return end + 1

    def _template(self, i: int) -> int:
        """An explicit instantiation of a kernel is recorded and taken out."""
        start = next_index(self.tokens, i + 1)
        if start >= len(self.tokens) or self.tokens[start].text == "<":
            self.output.append("template")
            return i + 1
        end = self._find(start, {";"})
        body, attributes = split_attributes(self.tokens[start:end])
        body = significant(body)
        named = [_string(a) for a in attributes if a.startswith("host_name(")]
        if not named and "kernel" not in attributes and all(t.text != "kernel" for t in body):
            self.output.append("template")
            return i + 1
        name, expression = _instantiated(body)
        self.exports.append(Export(named[0] if named else name, expression, name))
        lines = sum(t.text.count("\n") for t in self.tokens[i : end + 1])
        self.output.append("\n" * lines)
        return end + 1

    def _kernel(self, i: int) -> int:
        self._record_kernel(i + 1, previous_index(self.tokens, i - 1))
        self.output.append("static")  # only the copy in the entry point is of use
        return i + 1

    def _record_kernel(self, i: int, before: int) -> None:
        """``before`` is the last token in front of the kernel's keyword or attributes."""
        opening = self._find(i, {"(", ";", "{"})
        if self.tokens[opening].text != "(":
            raise MetalSyntaxError(
                f"no parameter list after 'kernel': {join(self.tokens[i:opening])}"
            )
        name = self.tokens[previous_index(self.tokens, opening - 1)].text
        end = closing_index(self.tokens, opening)
        self.kernels[name] = parse_parameters(self.tokens[opening + 1 : end])
        while before > 0 and self.tokens[before].text == "]":  # [[host_name("x")]] kernel void ...
            before = previous_index(self.tokens, self._opening_of_attribute(before) - 1)
        is_template = before >= 0 and self.tokens[before].text == ">"
        is_definition = self.tokens[next_index(self.tokens, end + 1)].text == "{"
        if is_definition and not is_template:
            self.exports.append(Export(self.host_name or name, name, name))
        self.host_name = None

    def _threadgroup(self, i: int) -> int:
        if self.depth == 0 or not self._starts_declaration(i):
            return i + 1  # part of a pointer's type
        end = self._find(i, {";", "=", "*", "&", "(", ")"})
        if self.tokens[end].text != ";":
            return i + 1
        declaration = significant(self.tokens[i + 1 : end])
        if len(split_list(declaration)) != 1:
            raise MetalSyntaxError(
                f"declare one threadgroup variable at a time: {join(declaration)}"
            )
        name = _declared_name(declaration)
        self.output.append(self.threadgroup_storage)
        self.output.extend(t.text for t in self.tokens[i + 1 : end + 1])
        self.output.append(f" __msl_threadgroup_variable((void*)&{name}, sizeof {name});")
        return end + 1

    def _starts_declaration(self, i: int) -> bool:
        before = previous_index(self.tokens, i - 1)
        return before >= 0 and self.tokens[before].text in (";", "{", "}", ")")

    def _constant(self, i: int) -> int:
        end = self._find(i, {";", "{", "=", "(", ")", ",", "*", "&"})
        declaration, attributes = split_attributes(self._through_attribute(i + 1))
        index = [a for a in attributes if a.startswith("function_constant(")]
        is_parameter = any(a.startswith("buffer(") for a in attributes)  # there it is a condition
        if index and self.depth == 0 and not is_parameter:
            *type_, name = [t.text for t in significant(declaration)]
            number = index[0].removeprefix("function_constant(").removesuffix(")")
            cpp_type = " ".join(type_)
            self.output.append(
                f"static const {cpp_type} {name} = __msl_constant<{cpp_type}>({number});"
                f" static const bool __msl_defined_{name} = __msl_constant_defined({number});"
            )
            return self._find(end, {";"}) + 1
        before = previous_index(self.tokens, i - 1)
        if (before >= 0 and self.tokens[before].text != "const") or before < 0:
            self.output.append("const")
        return i + 1

    def _through_attribute(self, i: int) -> list[Token]:
        """The tokens from i to the first attribute's end, if one comes before a statement's end."""
        for j in range(i, len(self.tokens)):
            if is_attribute(self.tokens, j):
                return self.tokens[i : closing_index(self.tokens, j) + 1]
            if self.tokens[j].text in (";", "{", "=", "(", ")", ","):
                break
        return []

    def _constant_defined(self, i: int) -> int:
        opening = next_index(self.tokens, i + 1)
        end = closing_index(self.tokens, opening)
        self.output.append(f"__msl_defined_{join(self.tokens[opening + 1 : end])}")
        return end + 1

    def _opening_of_attribute(self, end: int) -> int:
        depth = 0
        for j in range(end, -1, -1):
            depth += {"]": 1, "[": -1}.get(self.tokens[j].text, 0)
            if depth == 0:
                return j
        raise MetalSyntaxError("no '[' opens this ']'")

    def _find(self, i: int, wanted: set[str]) -> int:
        """The first of `wanted` outside of attributes and array bounds."""
        while i < len(self.tokens):
            if self.tokens[i].text == "[":
                i = closing_index(self.tokens, i)
            elif self.tokens[i].text in wanted:
                return i
            i += 1
        raise MetalSyntaxError(f"the file ends where one of {' '.join(sorted(wanted))} should come")


def _string(attribute: str) -> str:
    return "".join(re.findall(r'"((?:\\.|[^"\\])*)"', attribute))


def _declared_name(declaration: list[Token]) -> str:
    """``float x[4][8]`` -> ``x``."""
    for i, token in enumerate(declaration):
        if token.text == "[":
            return declaration[i - 1].text
    return declaration[-1].text


def _instantiated(body: list[Token]) -> tuple[str, str]:
    """Base name and C++ expression of ``kernel void f<float>(...)``, ``decltype(f<x>) f<x>``."""
    end = len(body)
    if body[-1].text == ")":
        depth = 0
        for end in range(len(body) - 1, -1, -1):
            depth += {")": 1, "(": -1}.get(body[end].text, 0)
            if depth == 0:
                break
    if body[end - 1].text != ">":
        raise MetalSyntaxError(f"an instantiated kernel without template arguments: {join(body)}")
    depth = 0
    for opening in range(end - 1, -1, -1):
        depth += {">": 1, "<": -1}.get(body[opening].text, 0)
        if depth == 0:
            break
    expression = [t for t in body[opening - 1 : end] if t.text not in _ERASED]
    return body[opening - 1].text, join(expression)


def rewrite(source: str, threadgroup_storage: str) -> Rewritten:
    """C++ for preprocessed Metal source. Raises MetalSyntaxError for what is not understood."""
    return Rewriter(tokenize(source), threadgroup_storage).run()
