"""The whole configuration: every key, reading and validating it, its reference page."""
