"""The shape that flows from one described layer to the next, batch left out.

Only arithmetic: what a layer does to a shape is in ``kinds.py``. Source of the formulas of sides:
"Shape" of ``Conv2d``, ``ConvTranspose2d`` and ``MaxPool2d`` in PyTorch's documentation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Side = int | None
"""A length, or ``None`` where it is not known."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What arrives at a layer: channels before height and width, features last.

    ``open`` says that more sides may stand before these: nothing, or not everything, is known.
    """

    sides: tuple[Side, ...] = ()
    open: bool = True

    @property
    def last(self) -> Side:
        """The number of features."""
        return self.sides[-1] if self.sides else None

    @property
    def known(self) -> tuple[int, ...] | None:
        """The sides, if all of them are known."""
        sides = tuple(side for side in self.sides if side is not None)
        return None if self.open or len(sides) < len(self.sides) else sides

    def with_last(self, features: int) -> Shape:
        """The same with another number of features."""
        return Shape((*self.sides[:-1], features), self.open)

    def first(self, *ranks: int) -> Side:
        """The number of channels of a shape that has one of these ranks (none given: any).

        Raises ``ValueError`` for another rank. An open shape of one known side has that many.
        """
        self.expect(*ranks)
        certain = self.sides and (not self.open or len(self.sides) == 1)
        return self.sides[0] if certain else None

    def expect(self, *ranks: int) -> None:
        """Raise ``ValueError`` unless the number of sides is one of ``ranks``, or is not known."""
        if not self.open and ranks and len(self.sides) not in ranks:
            known = " or ".join(map(str, ranks))
            raise ValueError(f"expected an input of {known} sides (batch left out), got {self}")

    def image(self, rank: int) -> tuple[Side, tuple[Side, ...]]:
        """Channels, and the ``rank`` sides after them."""
        self.expect(rank + 1)
        if len(self.sides) == rank + 1:
            return self.sides[0], self.sides[1:]
        return None, (None,) * rank

    def __str__(self) -> str:
        """``3x32x32``, with ``?`` for what is not known."""
        sides = ["..."] * self.open + ["?" if side is None else str(side) for side in self.sides]
        return "x".join(sides)


UNKNOWN = Shape()


def fit(name: str, given: Any, arriving: Side) -> int:
    """The size of a layer: as given, or as it arrives; both must say the same.

    >>> fit("inputs", None, 256)
    256
    """
    if given is None:
        if arriving is None:
            raise ValueError(f"{name}: expected a size, as none arrives; begin with input:SIZES")
        return arriving
    if type(given) is not int:
        raise ValueError(f"{name}: expected one whole number, got {given!r}")
    if arriving is not None and arriving != given:
        raise ValueError(f"{name}: expected {arriving}, which arrive, got {given}")
    return given


def per_side(name: str, value: Any, rank: int) -> tuple[int, ...]:
    """One number per side, from one or from as many."""
    values = (value,) * rank if isinstance(value, int) else tuple(value)
    if len(values) != rank or not all(type(v) is int for v in values):
        raise ValueError(f"{name}: expected 1 or {rank} sides, got {len(values)}")
    return values


def slid(side: Side, kernel: int, stride: int = 1, padding: int = 0, dilation: int = 1) -> Side:
    """A side after a kernel slid over it: ``(n + 2*p - d*(k - 1) - 1) // s + 1``.

    >>> slid(32, 3, stride=2, padding=1)
    16
    """
    if side is None:
        return None
    reach = dilation * (kernel - 1) + 1
    if side + 2 * padding < reach:
        raise ValueError(f"k: {reach} do not fit into a side of {side} with padding {padding}")
    return (side + 2 * padding - reach) // stride + 1


def spread(
    side: Side, kernel: int, stride: int, padding: int, dilation: int, output_padding: int
) -> Side:
    """A side after a transposed kernel: ``(n - 1)*s - 2*p + d*(k - 1) + o + 1``.

    >>> spread(16, 4, 2, 1, 1, 0)
    32
    """
    if output_padding >= max(stride, dilation):
        raise ValueError(
            f"output_padding: expected less than stride or dilation, got {output_padding}"
        )
    if side is None:
        return None
    out = (side - 1) * stride - 2 * padding + dilation * (kernel - 1) + output_padding + 1
    if out < 1:
        raise ValueError(f"padding: {padding} leave nothing of a side of {side}")
    return out
