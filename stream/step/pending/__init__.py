"""Scored events that wait for their label, and what waits with them."""
