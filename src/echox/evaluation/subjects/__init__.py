"""What is evaluated: a model in this process, or one behind a URL."""
