"""The learners that a configuration can name."""
