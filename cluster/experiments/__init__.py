"""Experiments: their records and the commands that start, read and end them."""
