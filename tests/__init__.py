"""Tests: one behaviour each, against a reference or an oracle."""
