"""Training: one loop (`loop.py`), one file per stage (what is built, what is trainable, its batches, its loss)."""
