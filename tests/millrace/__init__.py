"""Tests of ``millrace/``."""
