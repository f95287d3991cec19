"""Compiled kernels of recommendation: who and what is known, members, stack, the walk over rows."""
