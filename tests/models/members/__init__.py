"""Tests of ``models/members/``."""
