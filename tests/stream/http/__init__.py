"""Tests of ``stream/http/``."""
