"""Carries rollouts out: the controller, the operator's own process, and what they act on."""
