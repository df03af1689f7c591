"""Follows the event log and keeps the live features in step with it."""
