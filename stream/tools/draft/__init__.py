"""`millrace init`: from the first rows of a file to a configuration."""
