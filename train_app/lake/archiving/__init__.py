"""From the log to the lake, every record exactly once."""
