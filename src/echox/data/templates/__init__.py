"""Chat templates that this package makes: audio, appended turns, tools."""
