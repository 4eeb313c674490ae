"""Latency of a model's replies, and gaps in their playback."""
