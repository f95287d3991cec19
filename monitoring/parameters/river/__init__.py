"""Counting River estimators."""
