"""The networks in training: precision, attention, LoRA, several processes, the optimizer, arithmetic."""
