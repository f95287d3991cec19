"""What stands beside topics whose records name a schema."""
