"""Public corpora of recordings."""
