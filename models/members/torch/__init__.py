"""Any torch module as a member."""
