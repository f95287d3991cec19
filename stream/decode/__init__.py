"""Bytes to typed columns, and what becomes of bytes that do not fit."""
