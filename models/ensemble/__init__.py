"""Many members' logits become one score."""
