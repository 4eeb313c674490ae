"""Weights in 8 and 4 bits: stored by row, and computed with on a CPU."""
