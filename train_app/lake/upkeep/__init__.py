"""What keeps the lake small, whole and forgetful."""
