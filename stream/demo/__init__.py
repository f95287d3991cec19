"""Simulated payments, played through the real service."""
