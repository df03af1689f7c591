"""Rollouts played on simulated users: what a plan decides, how soon, and whom it costs. No I/O."""
