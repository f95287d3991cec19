"""Compiled kernels of ratings: what a user would say of an item, learned from what users say."""
