"""A simulated world of users and items."""
