"""The audit trail for operators: read it, verify it against whatever vouches for it."""
