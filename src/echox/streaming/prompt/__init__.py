"""What the language model is given to read: messages, their audio, the chat template, and what is kept of both."""
