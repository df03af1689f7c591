"""Decides and carries out what bundle answers."""
