"""The Kafka clients that the log may use, each behind the same few calls."""
