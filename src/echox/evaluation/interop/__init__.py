"""Runs in the formats of other evaluation tools, and plug-ins for these tools."""
