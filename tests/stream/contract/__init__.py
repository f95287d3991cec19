"""Tests of ``stream/contract/``."""
