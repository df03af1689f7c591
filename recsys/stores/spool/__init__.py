"""What the broker cannot take now, on disk until it can."""
