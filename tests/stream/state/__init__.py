"""Tests of ``stream/state/``."""
