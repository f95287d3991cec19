"""A replica beside a service."""
