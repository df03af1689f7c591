"""The scorer: from what retrieval proposes to calibrated estimates."""
