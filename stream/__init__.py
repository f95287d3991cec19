"""Events in, scores out: the log, the codec, the deterministic step, the daemon and its command."""
