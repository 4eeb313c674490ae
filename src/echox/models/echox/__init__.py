"""The speech encoder, S2T (speech to text) and the whole EchoX model, with their text side."""
