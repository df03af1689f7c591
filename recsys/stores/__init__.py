"""Embedded stores: the event log, the features, the control store."""
