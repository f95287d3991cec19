"""Rankings of public streams of interactions, judged in time order."""
