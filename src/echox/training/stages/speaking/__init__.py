"""Stages that teach a model to speak: text to units (T2C), and hidden states to units (echo)."""
