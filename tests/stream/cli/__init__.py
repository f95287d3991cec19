"""Tests of ``stream/cli/``."""
