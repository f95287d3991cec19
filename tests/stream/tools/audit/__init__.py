"""Tests of ``stream/tools/audit/``."""
