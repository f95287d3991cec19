"""Processes of a service placed by Ray: which only starts them and starts them again."""
