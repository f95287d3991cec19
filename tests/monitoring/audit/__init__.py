"""Tests of ``monitoring/audit/``."""
