"""Tests of ``monitoring/show/``."""
