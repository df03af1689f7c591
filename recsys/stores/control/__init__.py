"""What should run and what does: plans, readiness, keys, workers' rows, schedules."""
