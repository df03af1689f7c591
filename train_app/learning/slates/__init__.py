"""Logged slates: read from the lake, labelled, and learned from with their positions."""
