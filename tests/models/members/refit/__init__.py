"""Members that are trained beside the stream."""
