"""Tests of ``stream/run/``."""
