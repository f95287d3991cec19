"""What a shard learns from the past: from a file, or from its own log."""
