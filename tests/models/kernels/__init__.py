"""Tests of ``models/kernels/``."""
