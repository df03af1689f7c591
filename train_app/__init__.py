"""Learns: imports history, builds examples, trains, evaluates, publishes bundles. Serves nobody."""
