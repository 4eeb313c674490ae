"""Scores of replies, and the records they are computed from."""
