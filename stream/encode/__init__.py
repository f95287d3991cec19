"""Score records to the bytes of their topic's format."""
