"""A real Kafka, fetched and started on this machine, to try Flywheel and to test it with.

Nothing of the product imports this package; it imports nothing of the product.
"""
