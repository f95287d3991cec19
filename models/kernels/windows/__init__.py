"""Statistics of entities over windows of event time, compiled."""
