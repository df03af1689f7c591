"""What happened, in order: the log's protocol, the embedded one and Kafka's."""
