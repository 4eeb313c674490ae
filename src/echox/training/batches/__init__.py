"""What a step learns from: micro-batches, those of one step together, and what its losses are means over."""
