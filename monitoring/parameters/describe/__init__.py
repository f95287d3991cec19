"""Counting layers that nobody has built, from a description."""
