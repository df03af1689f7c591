"""Retrieval: both towers, from histories to weights."""
