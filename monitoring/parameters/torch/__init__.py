"""Counting torch modules."""
