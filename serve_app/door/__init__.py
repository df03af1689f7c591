"""Who is let in, by what a gateway can answer in time."""
