"""A service of many processes as a whole."""
