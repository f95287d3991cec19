"""A formula that is text, numbers and value at once, so that what is printed is what was computed.

Only whole numbers: a division that leaves a remainder is an error, never a rounded count.
"""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache

Size = int | tuple[int, ...]
"""A size, or several whose product enters the formula (a convolution's kernel)."""

_OPERATIONS: dict[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
}


@dataclass(frozen=True)
class Formula:
    """A count as an expression over named sizes.

    Parameters
    ----------
    text : str
        Names, whole numbers, ``+ - * /`` and parentheses.
    sizes : mapping of name to size
        A tuple stands for the product of its entries.

    Examples
    --------
    >>> f = Formula("i*o*k + o", {"i": 3, "o": 64, "k": (3, 3)})
    >>> f.numbers, f.value
    ('3*64*3*3 + 64', 1792)
    """

    text: str
    sizes: Mapping[str, Size]

    @cached_property
    def value(self) -> int:
        """The count. Raises ``ValueError`` for a division with a remainder."""
        return _evaluate(_parse(self.text), self.sizes)

    @property
    def numbers(self) -> str:
        """The text with every name replaced by its size."""
        return re.sub(r"[A-Za-z_]\w*", lambda name: _spell(self.sizes[name[0]]), self.text)

    def plus(self, text: str, **sizes: Size) -> Formula:
        """This formula and one more term; its names must be new."""
        joined = text if self.text == "0" else f"{self.text} + {text}"
        return Formula(joined, {**self.sizes, **sizes})

    def minus(self, text: str, **sizes: Size) -> Formula:
        """This formula without one term; its names must be new."""
        return Formula(f"{self.text} - {text}", {**self.sizes, **sizes})


def formula(text: str, **sizes: Size) -> Formula:
    """A :class:`Formula` of these sizes.

    >>> formula("i*o + o", i=256, o=128).value
    32896
    """
    return Formula(text, sizes)


NOTHING = formula("0")


def _spell(size: Size) -> str:
    if isinstance(size, int):
        return str(size)
    return "*".join(map(str, size)) or "1"


@lru_cache(maxsize=1024)
def _parse(text: str) -> ast.expr:
    return ast.parse(text, mode="eval").body


def _evaluate(node: ast.expr, sizes: Mapping[str, Size]) -> int:
    if isinstance(node, ast.Constant) and isinstance(node.value, int):
        return node.value
    if isinstance(node, ast.Name):
        size = sizes[node.id]
        return size if isinstance(size, int) else math.prod(size)
    if isinstance(node, ast.BinOp):
        left, right = _evaluate(node.left, sizes), _evaluate(node.right, sizes)
        if isinstance(node.op, ast.Div):
            if left % right:
                raise ValueError(f"{left}/{right} leaves a remainder")
            return left // right
        return _OPERATIONS[type(node.op)](left, right)
    raise ValueError(f"a formula has names, numbers, + - * / only; got {ast.unparse(node)}")
