"""Unit languages: tokenizers between reduced units and unit words."""
