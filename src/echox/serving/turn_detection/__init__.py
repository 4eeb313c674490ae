"""Turn detection: voice activity, turns, and the end of sentences."""
