"""Shadow traffic: bundles that get copies of requests and answer nobody."""
