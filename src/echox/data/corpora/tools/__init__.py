"""What people ask of tools, and what clients call them: texts for lessons and measurements."""
