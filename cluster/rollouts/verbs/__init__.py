"""What the operator types of rollouts, and what is shown."""
