"""A service that goes on under another configuration, killed on the way."""
