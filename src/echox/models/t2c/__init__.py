"""Unit decoders (T2C and echo decoder) and the tokenizers of unit words."""
