"""Tests of ``models/ensemble/``."""
