"""Voice activity and turns."""
