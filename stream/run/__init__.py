"""The daemon: a shard put together, its loop, its threads and every way it ends."""
