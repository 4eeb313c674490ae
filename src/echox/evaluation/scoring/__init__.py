"""Scores of replies, and the records that they are computed from."""
