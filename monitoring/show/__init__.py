"""What people and Prometheus see: metrics, dashboards, the live page."""
