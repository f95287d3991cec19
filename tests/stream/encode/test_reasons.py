"""Reasons as JSON: what is written adds up to the last decimal, whatever the numbers."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.base import F64
from stream.encode.reasons import LARGEST, PLACES, Writer

NAMES = ["amount", 'a "quoted" name', "über", "linear"]
TEXTS = ["An unusual amount", None, 'With "quotes" and \\', None]
HALF = Decimal(10) ** -PLACES / 2


def written(link: F64, base: F64, weights: F64, most: int = 2) -> list[dict[str, Any]]:
    """Each row's reasons as decimals."""
    made = Writer(NAMES, TEXTS, most).write(link, base, weights)
    return [json.loads(raw, parse_float=Decimal) for raw in made]


numbers = st.floats(-30, 30) | st.sampled_from([0.0, -0.0, 1e-13, -4e-13, 0.1, 99999.5, -0.25])


@given(st.lists(st.lists(numbers, min_size=5, max_size=5), min_size=1, max_size=20))
def test_what_is_written_of_each_row_adds_up_to_its_link(rows: list[list[float]]) -> None:
    """The greatest that push, the first of those alike; each number to half of its last decimal."""
    table = np.array(rows)
    base, weights = np.ascontiguousarray(table[:, 0]), np.ascontiguousarray(table[:, 1:])
    link = table.sum(axis=1)
    for found, row, whole in zip(written(link, base, weights), rows, link.tolist(), strict=True):
        order = sorted(range(4), key=lambda r: -row[1 + r])[:2]
        pushing = [r for r in order if Decimal(row[1 + r]) >= HALF]
        assert [t["reason"] for t in found["top"]] == [NAMES[r] for r in pushing]
        assert [t.get("text") for t in found["top"]] == [TEXTS[r] for r in pushing]
        told = [found["link"], found["base"], *(t["weight"] for t in found["top"])]
        meant = [whole, row[0], *(row[1 + r] for r in pushing)]
        for one, other in zip(told, meant, strict=True):
            # The product with a power of ten rounds too.
            assert abs(one - Decimal(other)) <= HALF + abs(Decimal(other)) * Decimal("3e-16")
        shown = sum(t["weight"] for t in found["top"])
        assert found["base"] + found["rest"] + shown == found["link"]


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0.0, "0.0"),
        (-0.5, "-0.5"),
        (1e-12, "0.000000000001"),
        (-1.0, "-1.0"),
        (10.25, "10.25"),
        (123456.000001, "123456.000001"),
        (LARGEST, "1000000.0"),
        (1 / 3, "0.333333333333"),
        (2 / 3, "0.666666666667"),
    ],
)
def test_numbers_have_no_more_digits_than_they_need(number: float, text: str) -> None:
    """As people write them."""
    [made] = Writer(NAMES, TEXTS, 1).write(np.array([number]), np.zeros(1), np.zeros((1, 4)))
    assert made == b'{"link":%s,"base":0.0,"rest":%s,"top":[]}' % ((text.encode(),) * 2)


def test_as_many_are_shown_as_there_are_at_most() -> None:
    """More may be asked for; without rows nothing is written."""
    [found] = written(np.array([10.0]), np.zeros(1), np.array([[1.0, 2.0, 3.0, 4.0]]), most=9)
    assert [float(t["weight"]) for t in found["top"]] == [4.0, 3.0, 2.0, 1.0]
    assert written(np.zeros(0), np.zeros(0), np.zeros((0, 4))) == []
