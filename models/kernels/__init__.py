"""Compiled kernels (Numba): plain functions over arrays; their owners live one level up."""
