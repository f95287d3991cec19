"""The parameter auditor and its tamper-evident trail."""
