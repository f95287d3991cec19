"""Tests of ``models/members/classes/``."""
