"""The online features in Redis."""
