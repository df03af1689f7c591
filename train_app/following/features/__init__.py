"""The follower that keeps the live features."""
