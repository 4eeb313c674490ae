"""Corpora: what importers share, and texts of this project; ``public/`` has a file for each public corpus."""
