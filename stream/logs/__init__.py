"""The logs: SQLite and Kafka behind one protocol, read ahead of the step."""
