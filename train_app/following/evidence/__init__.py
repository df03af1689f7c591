"""The follower that counts what came of slates."""
