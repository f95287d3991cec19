"""Tests of ``monitoring/rules/``."""
