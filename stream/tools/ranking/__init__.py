"""Rankings judged over a file of interactions."""
