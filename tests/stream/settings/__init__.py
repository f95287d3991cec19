"""Tests of ``stream/settings/``."""
