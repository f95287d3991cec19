"""What people run beside the daemon: evaluate a file, operate a shard, read the audit trail."""
