"""What the live page is fed with: a snapshot a second, the last ten minutes, the newest scores."""
