"""Any River classifier as a member."""
