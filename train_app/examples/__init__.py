"""What training and evaluation read: interactions from the lake, checked."""
