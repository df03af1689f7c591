"""Brings history in: files of any common shape to checked rows of the lake."""
