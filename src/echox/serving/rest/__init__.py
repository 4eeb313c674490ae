"""The HTTP endpoints: chat completions, speech, transcriptions."""
