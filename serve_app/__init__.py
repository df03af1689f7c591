"""Answers requests: the request graph on Ray Serve. Knows nothing of training or of operators."""
