"""The text side of any language model: tokenizers, bounds of words, embeddings, losses over a large vocabulary."""
