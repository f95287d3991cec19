"""What learns: features, members, the ensemble. Knows nothing of Kafka, HTTP or Prometheus."""
