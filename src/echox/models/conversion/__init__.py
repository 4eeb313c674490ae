"""Loading of checkpoints of other projects: the official release, vocoders, k-means centroids, LoRA adapters."""
