"""Compiled members that learn which of several classes an event belongs to."""
