"""Detectors of drift: of errors as labels come, of scores and features before they do."""
