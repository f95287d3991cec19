"""Faults of brokers and of the network before them."""
