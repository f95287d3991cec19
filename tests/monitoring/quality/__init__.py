"""Tests of ``monitoring/quality/``."""
