"""Checkpoints of other projects, read into ours."""
