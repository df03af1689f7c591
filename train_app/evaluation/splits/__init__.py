"""Other ways to hold engagements out: several cuts, a published split, one page per user."""
