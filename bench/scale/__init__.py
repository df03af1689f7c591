"""What one machine measures of the index, and what follows for sizes that do not fit on it."""
