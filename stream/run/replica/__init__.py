"""A second process that follows a service by its journal, proves every step and answers reads."""
