"""Tests of ``stream/logs/``."""
