"""Tests of ``stream/step/lifecycle/``."""
