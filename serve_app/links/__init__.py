"""Direct connections between the gateway and the stages' replicas."""
