"""What the lake tells of shadows: the lift their slates would have had."""
