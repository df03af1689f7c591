"""Composing: a new bundle out of the parts of published ones."""
