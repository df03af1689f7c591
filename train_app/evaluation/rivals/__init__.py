"""Baselines of a well-kept library, tuned on a slice of the training part."""
