"""Starts, watches and stops a cluster on this machine."""
