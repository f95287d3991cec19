"""Compiled members that learn a number."""
