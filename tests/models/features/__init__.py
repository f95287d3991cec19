"""Tests of ``models/features/``."""
