"""Trains on a schedule: when a training is due, and the process it runs in."""
