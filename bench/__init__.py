"""What a user can run to see the speed, with the baselines a user would pick instead beside it."""
