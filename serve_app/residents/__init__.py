"""Which bundles a replica holds, and the plan it follows."""
