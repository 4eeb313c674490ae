"""Tools that a model may call: their declaration, the form of a call, its grammar, and calls as they are written."""
