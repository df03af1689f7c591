"""The lake: Delta tables that hold rows and log offsets in one commit."""
