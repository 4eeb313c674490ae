"""One file per training stage: what is built, what is trained, its batches, its loss. Rooms by what they teach."""
