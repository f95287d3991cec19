"""Recommendation: rank items for a user, and learn from what users do."""
