"""Tests of ``stream/tools/``."""
