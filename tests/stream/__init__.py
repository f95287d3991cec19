"""Tests of ``stream/``."""
