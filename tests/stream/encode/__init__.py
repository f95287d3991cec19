"""Tests of ``stream/decode/``."""
