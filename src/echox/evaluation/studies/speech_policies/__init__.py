"""Speech policies compared: time to first audio against errors of the speech."""
