"""The layers of the HTTP API, one file each; `stream/api.py` puts them together."""
