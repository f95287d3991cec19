"""The HTTP side: ingest, scores, health, metrics, the live page's feed."""
