"""Checkpoints of a run: written, read, checked."""
