"""What the sources beside the index would have proposed at past moments, from engagements alone."""
