"""The ``millrace`` command; no logic."""
