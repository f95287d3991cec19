"""What the rooms agree on: records, batches, commands, the Log protocol, routing, hashing."""
