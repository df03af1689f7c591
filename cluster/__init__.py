"""Changes what runs: the operator's command. Imports no torch, no scann, and Ray only in `fleet`."""
