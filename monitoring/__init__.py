"""What watches: quality, drift, metrics, parameters, the audit trail. Imports only ``models``."""
