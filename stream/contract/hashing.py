"""Text to 64 bits: the same number in every process and on every machine."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xxhash

from models.base import U64


def hash_text(text: str) -> int:
    """xxh3-64 of the UTF-8 text; never 0, which stands for missing. Same in every process."""
    return xxhash.xxh3_64_intdigest(text.encode("utf-8", "surrogatepass")) or 1


def hash_texts(texts: Sequence[str]) -> U64:
    """:func:`hash_text` of each, in a third of the time."""
    hash_bytes = xxhash.xxh3_64_intdigest
    try:
        hashes = [hash_bytes(text.encode()) for text in texts]
    except UnicodeEncodeError:  # halves of surrogate pairs
        hashes = [hash_text(text) for text in texts]
    found = np.array(hashes, dtype=np.uint64)
    found[found == 0] = 1
    return found
