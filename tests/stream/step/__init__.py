"""Tests of ``stream/step/``."""
