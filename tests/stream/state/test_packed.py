"""Arrays on disk: what is written is a file of safetensors, however it was made."""

from __future__ import annotations

import json

import msgspec
import numpy as np
import pytest
import safetensors.numpy
import zstandard

from stream.state.packed import compressed, expanded

KINDS = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?", ">i4", ">f8")


def test_arrays_come_back_by_the_library_that_owns_the_format() -> None:
    """Of every type, of none and of many dimensions, empty, not contiguous, larger than a piece."""
    rng = np.random.default_rng(1)
    arrays = {f"kinds/{kind}": rng.integers(0, 2, (3, 5)).astype(kind) for kind in KINDS}
    arrays |= {
        "none": np.array(1.5),
        "empty": np.zeros((0, 7), np.float32),
        "columns": rng.random((6, 4))[:, ::2],
        "large": rng.integers(0, 1 << 60, 1 << 18),
    }
    packed, length = compressed(arrays)
    raw = zstandard.ZstdDecompressor().decompress(packed)
    assert zstandard.get_frame_parameters(packed).content_size == length == len(raw)
    for found in (safetensors.numpy.load(raw), expanded(packed)):
        assert found.keys() == arrays.keys()
        for name, a in arrays.items():
            assert found[name].dtype == a.dtype.newbyteorder("=")
            np.testing.assert_array_equal(found[name], a, strict=False)
            assert found[name].shape == a.shape
            assert found[name].flags.writeable


def test_each_array_lies_where_its_items_are_aligned() -> None:
    """Whatever the names and lengths: readers that map the file may look at it in its place."""
    arrays = {"a" * n: np.zeros(n, kind) for n, kind in enumerate(("u1", "f8", "u2", "f4"), 1)}
    raw = zstandard.ZstdDecompressor().decompress(compressed(arrays)[0])
    before = 8 + int.from_bytes(raw[:8], "little")
    assert before % 8 == 0
    for name, told in json.loads(raw[8:before]).items():
        assert told["data_offsets"][0] % arrays[name].itemsize == 0


def test_a_file_that_the_library_wrote_is_read() -> None:
    """With notes of its own in the head, too."""
    arrays = {"a": np.arange(5, dtype=np.int16), "b": np.ones((2, 3))}
    raw = safetensors.numpy.save(arrays, {"by": "somebody"})
    found = expanded(zstandard.compress(raw))
    assert found.keys() == arrays.keys()
    for name, a in arrays.items():
        np.testing.assert_array_equal(found[name], a, strict=True)


@pytest.mark.parametrize(
    ("told", "wrong"),
    [
        ({"dtype": "F64", "shape": [2], "data_offsets": [0, 8]}, "a: expected 0 and so many bytes"),
        ({"dtype": "F64", "shape": [1], "data_offsets": [8, 16]}, "a: expected 0"),
        ({"dtype": "F64", "shape": [1 << 61], "data_offsets": [0, 1 << 64]}, "longer"),
        ({"dtype": "F64", "shape": [3], "data_offsets": [0, 24]}, "8 bytes longer"),
        ({"dtype": "F64", "shape": [-1], "data_offsets": [0, -8]}, ">= 0"),
        ({"dtype": "C64", "shape": [2], "data_offsets": [0, 16]}, "C64"),
        ({"dtype": "F64", "shape": [2]}, "data_offsets"),
        (["a"], "array"),
    ],
)
def test_a_head_that_lies_is_refused(told: object, wrong: str) -> None:
    """What it says of an array must be what is there."""
    head = json.dumps({"a": told}).encode()
    raw = len(head).to_bytes(8, "little") + head + bytes(16)
    with pytest.raises((ValueError, KeyError, msgspec.MsgspecError), match=wrong):
        expanded(zstandard.compress(raw))


@pytest.mark.parametrize("raw", [b"", b"\0" * 4, b"\xff" * 16])
def test_a_file_without_a_head_is_refused(raw: bytes) -> None:
    """Its length is believed as far as the frame goes."""
    with pytest.raises((ValueError, msgspec.MsgspecError, OverflowError)):
        expanded(zstandard.compress(raw))
