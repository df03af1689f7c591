"""Shadow traffic in a gateway: copies of requests to bundles that answer nobody."""
