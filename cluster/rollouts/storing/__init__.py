"""Writes the control store."""
