"""Off-policy evaluation on our own log: what another policy would have earned."""
