"""Counting the weights in files, without running anything that stands in them."""
