"""Events in, scores out: the daemon. Each room imports those before it only."""
