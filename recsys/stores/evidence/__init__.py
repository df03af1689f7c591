"""Sums of what came of each variant's slates."""
