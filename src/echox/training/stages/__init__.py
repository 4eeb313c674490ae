"""One file per training stage: what is built, what is trained, its batches, its loss."""
