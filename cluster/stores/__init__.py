"""What stands outside the process: are its servers sound, and what is kept of them elsewhere."""
