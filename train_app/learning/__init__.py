"""Trains the towers and the scorer."""
