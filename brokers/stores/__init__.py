"""All stores of production on this machine, to test and to try: Kafka, Redis, Postgres, S3."""
