"""The online features: what serving reads of them, and the embedded store."""
