"""Reports of experiments, from the lake."""
