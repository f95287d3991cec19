"""The step of a shard that ranks items for users."""
