"""The deterministic step and all the state it holds."""
