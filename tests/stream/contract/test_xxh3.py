"""Hashes of many texts at once against the library, one by one."""

from __future__ import annotations

import numpy as np
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.contract.hashing import hash_text, hash_texts
from stream.contract.xxh3 import LONGEST, hash_each

BYTES = st.binary(min_size=1, max_size=LONGEST).map(lambda raw: raw.replace(b"\0", b"\1"))
TEXTS = st.text(max_size=2 * LONGEST) | st.text(st.characters(codec="ascii"), max_size=LONGEST)


@settings(max_examples=300)
@given(texts=st.lists(BYTES, max_size=20))
def test_the_hash_is_the_librarys(texts: list[bytes]) -> None:
    """Of any bytes but zero, in every length."""
    found = np.empty(len(texts), np.uint64)
    joined = b"".join(text + b"\0" for text in texts)
    assert hash_each(np.frombuffer(joined, np.uint8), found) == len(texts)
    assert found.tolist() == [xxhash.xxh3_64_intdigest(text) for text in texts]


@settings(max_examples=300)
@given(texts=st.lists(TEXTS | st.sampled_from(["", "\0", "a\0b", "\ud800", "0" * 17]), max_size=8))
def test_texts_of_any_kind_are_hashed_as_each_alone(texts: list[str]) -> None:
    """Empty and long ones, zeros, other scripts and halves of surrogate pairs among them."""
    assert hash_texts(texts).tolist() == [hash_text(text) for text in texts]
