"""Tests of ``models/members/numbers/``."""
