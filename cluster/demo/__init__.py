"""The whole loop as one command, through the doors a user has."""
