"""Care of the registry: what is in use, what differs, what may go."""
