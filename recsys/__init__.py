"""The domain: what a recommendation is and how it is decided. Knows no Ray, no Kafka, no HTTP."""
