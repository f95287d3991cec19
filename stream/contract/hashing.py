"""Text to 64 bits: the same number in every process and on every machine."""

from __future__ import annotations

import xxhash


def hash_text(text: str) -> int:
    """xxh3-64 of the UTF-8 text; never 0, which stands for missing. Same in every process."""
    return xxhash.xxh3_64_intdigest(text.encode("utf-8", "surrogatepass")) or 1
