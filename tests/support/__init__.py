"""What several tests share: configurations, records, brokers, oracles."""
