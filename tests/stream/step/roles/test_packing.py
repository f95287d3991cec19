"""Packed arrays: bit for bit what they were, and bounded where they are crafted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from stream.step.roles import packing
from stream.step.roles.examples import MOST_BYTES, plain_bytes
from stream.step.roles.packing import LEAST_BYTES, packed, unpacked
from tests.stream.step.roles.scaled import Part, of_role, raw

KINDS = ("<f8", "<f4", "<i8", "<u8", "<i4", "|u1", "<u2", "|b1")


def same(a: NDArray[Any], b: NDArray[Any]) -> bool:
    return (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())


@given(
    kind=st.sampled_from(KINDS),
    rows=st.integers(0, 1500),
    width=st.integers(1, 5),
    share=st.sampled_from((0.0, 0.01, 0.5, 1.0)),
    seed=st.integers(0, 1000),
)
def test_arrays_come_back_bit_for_bit(
    kind: str, rows: int, width: int, share: float, seed: int
) -> None:
    """Of every type, length and share of zeros; any bits are a number, NaN and -0 among them."""
    rng = np.random.default_rng(seed)
    bits = rng.integers(0, 256, (rows, width * np.dtype(kind).itemsize), np.uint8)
    made = (bits.view("?") if kind == "|b1" else bits).view(kind).reshape(rows, width)
    made = np.where(rng.random((rows, width)) < share, made, np.zeros(1, kind))
    if kind == "|b1":
        made = made.view(np.uint8).astype(bool)
    text = packed({"a": made, "b": [1, "c", None, 0.5]})
    found = unpacked(text)
    assert same(found["a"], made)
    assert found["b"] == [1, "c", None, 0.5]
    assert packed(found) == text


def test_few_numbers_among_zeros_take_few_bytes() -> None:
    """A bit for each, and the bytes of those that there are; -0 is not 0."""
    made = np.zeros(80_000)
    made[[3, 79_999]] = -0.0, np.nan
    text = packed(made)
    assert len(text) < 10_000 + 100
    assert same(unpacked(text), made)


def crafted(kind: str, shape: list[int], mask: bytes, values: bytes) -> bytes:
    inner = msgspec.msgpack.encode([kind, shape, mask, values])
    return msgspec.msgpack.encode(msgspec.msgpack.Ext(packing._WORDS, inner))


@pytest.mark.parametrize(
    ("kind", "shape", "mask", "values"),
    [
        ("<f8", [8], b"\x01", b""),
        ("<f8", [8], b"\x01", b"12345678" * 2),
        ("<f8", [4], b"\x10", b"12345678"),
        ("<f8", [16], b"\x01", b"12345678"),
        ("<f8", [-8], b"\x00", b""),
        ("|u1", [8], b"\x01", b"1"),
        ("O", [8], b"\x01", b"12345678"),
        ("nothing", [8], b"\x01", b"12345678"),
    ],
)
def test_crafted_arrays_reach_no_kernel(
    kind: str, shape: list[int], mask: bytes, values: bytes
) -> None:
    """Too few or too many bytes, bits beyond the end, sizes and types that are none."""
    with pytest.raises(ValueError, match="an array"):
        unpacked(crafted(kind, shape, mask, values))


def test_a_text_unpacks_to_so_much_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of its arrays together."""
    monkeypatch.setattr(packing, "MOST_BYTES", 3 * LEAST_BYTES)
    one = np.zeros(LEAST_BYTES // 4)
    assert same(unpacked(packed([one]))[0], one)
    with pytest.raises(ValueError, match="for an array"):
        unpacked(packed([one, one]))


def test_what_says_to_be_too_long_is_not_decompressed(tmp_path: Path) -> None:
    """By its head, or where that does not say; scorer and learner write a dead letter."""
    long = zstandard.ZstdCompressor().compress(bytes(MOST_BYTES + 1))
    with pytest.raises(ValueError, match="once decompressed, got 67,108,865"):
        plain_bytes(long)
    silent = zstandard.ZstdCompressor(write_content_size=False).compress(b"example")
    with pytest.raises(ValueError, match="once decompressed, got -1"):
        plain_bytes(silent)
    learner = Part(of_role(raw(tmp_path), "learner"))
    out = learner.step((learner.config.examples_topic, 0, [long, silent]))
    assert [letter.reason for letter in out.dead_letters] == ["foreign"] * 2
