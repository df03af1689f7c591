"""Measures models on held-out engagements and decides what may be published."""
