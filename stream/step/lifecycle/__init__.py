"""What changes models while they run: drift alarms, challengers, versions put back."""
