"""Tests of ``stream/demo/``."""
