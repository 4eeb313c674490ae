"""Scores: what the model wrote, what it said, and how fast."""
