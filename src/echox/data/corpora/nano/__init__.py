"""The nano corpus: its facts as dialogues, and their speech."""
