"""The grammar of the protocols: events, options, parameters, conversation items, audio on the wire, limits."""
