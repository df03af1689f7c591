"""Where a stage runs and how it is called."""
