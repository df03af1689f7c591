"""Searches for better settings of the models, on a validation slice of the training part."""
