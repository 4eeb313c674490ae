"""Shared by the commands: options, progress, the microphone."""
