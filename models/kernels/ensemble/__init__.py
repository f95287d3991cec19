"""What experts say of one row, how they are mixed, and how far a promise reaches: compiled."""
