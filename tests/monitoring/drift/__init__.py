"""Tests of ``monitoring/drift/``."""
