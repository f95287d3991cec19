"""Grafana dashboards: ``build.py`` makes them, the ``.json`` files are what it made."""
