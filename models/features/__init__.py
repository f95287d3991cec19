"""Events' columns to feature columns: numbers, categories, the calendar, windows of entities."""
