"""Trains members beside the service: what asks a process, and the process."""
