"""Who is examined: a model in this process, or one behind a URL."""
