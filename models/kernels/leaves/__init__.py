"""Leaves of trees: what they count, say and split by."""
