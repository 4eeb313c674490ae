"""Public corpora of text alone."""
