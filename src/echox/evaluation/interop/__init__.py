"""Runs as other evaluation tools read them, and plug-ins for those tools."""
