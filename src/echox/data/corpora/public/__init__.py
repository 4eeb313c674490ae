"""Public corpora: one file for each, which downloads it, checks it and writes its manifests."""
