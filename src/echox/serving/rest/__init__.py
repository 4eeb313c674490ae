"""The HTTP endpoints: chat completions, responses, speech, transcriptions."""
