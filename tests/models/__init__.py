"""Tests of ``models/``."""
