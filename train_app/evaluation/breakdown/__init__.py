"""Takes a result apart: what a list is like, by segment, by stage, by cost."""
