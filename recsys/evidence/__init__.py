"""What evidence says of a canary beside its baseline: pure values, intervals and verdicts."""
