"""Changes what runs: the operator's command. Imports no torch, and Ray only in `local.fleet`."""
