"""Dialogues, typed or spoken: what stages read of them, and the language model that learns them (stage "lm")."""
