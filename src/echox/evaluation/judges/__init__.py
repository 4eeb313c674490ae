"""Judges of spoken replies: recognisers and predicted naturalness."""
