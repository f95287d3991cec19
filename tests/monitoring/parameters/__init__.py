"""Tests of ``monitoring/parameters/``."""
