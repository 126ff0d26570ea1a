"""The sandbox that chat templates run in.

Jinja's immutable sandbox without a loader keeps a template away from files and from Python's
insides; the budget here keeps it from running or growing without end. What the budget does not
see is the inner work of one filter or string method (``replace`` on long text can ask for much
memory at once), and the template's own literal text, which counts at the final output alone.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from jinja2 import nodes
from jinja2.ext import Extension, LoopControlExtension
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

_GROWING_OPERATORS = frozenset({"+", "*", "**", "%"})
_MAX_EXPONENT = 64
_WIDE_FIELD = re.compile(r"\d{7,}")  # a width or precision that formats to megabytes


@dataclass(frozen=True)
class TemplateLimits:
    """What one rendering may use.

    Attributes:
        max_steps: Loop iterations and calls together.
        max_size: Length of any text or list that the template builds, of the output, and of all
            values written together (text that passes through a macro is written twice).
        max_integer: Largest number a template may compute or pass to a function.
    """

    max_steps: int = 1_000_000
    max_size: int = 16_000_000
    max_integer: int = 1_000_000


class Overrun(Exception):
    """A rendering exceeded its limits."""


class Budget:
    """What is left of the limits in one rendering; every method raises :class:`Overrun`."""

    def __init__(self, limits: TemplateLimits) -> None:
        self._limits = limits
        self._steps_left = limits.max_steps
        self._output_left = limits.max_size

    def step(self) -> None:
        self._steps_left -= 1
        if self._steps_left < 0:
            raise Overrun(f"it runs for more than {self._limits.max_steps} steps")

    def write(self, size: int) -> None:
        self._output_left -= size
        if self._output_left < 0:
            raise Overrun(f"it writes more than {self._limits.max_size} characters")

    def check_size(self, size: int) -> None:
        if size > self._limits.max_size:
            raise Overrun(f"it builds more than {self._limits.max_size} characters")

    def check_integer(self, value: object) -> None:
        if isinstance(value, int) and abs(value) > self._limits.max_integer:
            raise Overrun(f"it uses a number beyond {self._limits.max_integer}")

    def check_value(self, value: object) -> None:
        self.check_integer(value)
        if isinstance(value, (str, list, tuple)):
            self.check_size(len(value))


class _Counted:
    """An iterable whose every item costs one step; keeps its length, which `loop` asks for."""

    def __init__(self, items: Iterable[Any], budget: Budget) -> None:
        self._items = items
        self._budget = budget

    def __iter__(self) -> Iterator[Any]:
        for item in self._items:
            self._budget.step()
            yield item

    def __len__(self) -> int:
        return len(self._items)  # type: ignore[arg-type]  # TypeError is what Jinja expects


class Sandbox(ImmutableSandboxedEnvironment):
    """Jinja's sandbox plus a budget for each rendering."""

    intercepted_binops = _GROWING_OPERATORS

    def __init__(self, limits: TemplateLimits) -> None:
        self._limits = limits
        self._local = threading.local()
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            finalize=self._count_output,
            extensions=[LoopControlExtension, _GenerationExtension, _BudgetExtension],
        )
        # No chat template needs these: one makes text from nothing, one formats without a check.
        del self.globals["lipsum"]
        del self.filters["format"]

    def new_budget(self) -> Budget:
        self._local.budget = Budget(self._limits)
        return self.budget

    @property
    def budget(self) -> Budget:
        budget: Budget | None = getattr(self._local, "budget", None)
        return budget or self.new_budget()  # Jinja folds constants before any rendering

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        budget = __self.budget
        budget.step()
        for value in (*args, *kwargs.values()):
            budget.check_integer(value)
        result = super().call(__context, __obj, *args, **kwargs)
        if isinstance(result, str):
            budget.check_size(len(result))
        return result

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        self._check_operands(operator, left, right)
        result = super().call_binop(context, operator, left, right)
        self.budget.check_value(result)
        return result

    def _check_operands(self, operator: str, left: Any, right: Any) -> None:
        if operator == "*":
            for value, times in ((left, right), (right, left)):
                if isinstance(value, (str, list, tuple)) and isinstance(times, int):
                    self.budget.check_size(len(value) * times)
        elif operator == "**":
            self.budget.check_value(left)
            if isinstance(right, int) and right > _MAX_EXPONENT:
                raise Overrun(f"it raises a number to a power above {_MAX_EXPONENT}")
        elif operator == "%" and isinstance(left, str):
            _check_format(left)
            for value in right if isinstance(right, tuple) else (right,):
                self.budget.check_integer(value)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        wrapped = super().wrap_str_format(value)
        if wrapped is not None:
            _check_format(value.__self__)
        return wrapped

    def _count_output(self, value: Any) -> Any:
        if isinstance(value, str):
            self.budget.write(len(value))
        return value


def _check_format(pattern: str) -> None:
    if _WIDE_FIELD.search(pattern):
        raise Overrun("it formats a field of millions of characters")


class _BudgetExtension(Extension):
    """Gives the compiled template its way to the budget; see :func:`instrument`."""

    identifier = "longbow_quarrel.budget"

    def count(self, items: Any) -> Any:
        """Makes every item cost a step."""
        sandbox = self.environment
        assert isinstance(sandbox, Sandbox)
        return _Counted(items, sandbox.budget) if isinstance(items, Iterable) else items

    def limit(self, value: Any) -> Any:
        """Refuses a value that has grown too long."""
        sandbox = self.environment
        assert isinstance(sandbox, Sandbox)
        sandbox.budget.check_value(value)
        return value


class _GenerationExtension(Extension):
    """``{% generation %}`` marks the model's own words for training; here it changes nothing."""

    tags = {"generation"}  # noqa: RUF012 - the name and type Jinja prescribes

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """Returns the block's body."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def instrument(tree: nodes.Template) -> nodes.Template:
    """Routes what loops and grows in a parsed template through the budget."""

    def guarded(method: str, value: nodes.Node) -> nodes.Expr:
        attribute = nodes.ExtensionAttribute(_BudgetExtension.identifier, method)
        call = nodes.Call(attribute, [value], [], None, None)
        return call.set_lineno(value.lineno)  # type: ignore[return-value]

    for loop in list(tree.find_all(nodes.For)):
        loop.iter = guarded("count", loop.iter)
    for assignment in list(tree.find_all(nodes.Assign)):
        assignment.node = guarded("limit", assignment.node)
    for use in list(tree.find_all(nodes.Filter)):
        use.args = [guarded("limit", argument) for argument in use.args]
        for keyword in use.kwargs:
            keyword.value = guarded("limit", keyword.value)
    return tree
