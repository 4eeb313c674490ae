"""The protocols: events, options, parameters, conversation items, audio formats and limits."""
