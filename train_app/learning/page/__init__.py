"""Trains retrieval and scorer as one, on whole moments."""
