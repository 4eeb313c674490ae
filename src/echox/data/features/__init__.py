"""Features of recordings: computed once, varied in training, padded for one tower."""
