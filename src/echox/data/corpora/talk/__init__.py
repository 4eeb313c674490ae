"""Conversations of a voice assistant: small talk, what users tell of themselves, what it cannot know or do."""
