"""What changes models while they run: drift alarms, challengers."""
