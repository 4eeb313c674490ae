"""Data: manifests, sampling, batches, synthesis and corpora."""
