"""Checks of the data before each training: of the lake's tables, and of what is learned from."""
