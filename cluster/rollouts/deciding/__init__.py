"""Decides: the record of a rollout, its plan, and what each turn makes of them. Pure."""
