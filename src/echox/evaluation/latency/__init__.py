"""How soon and how fast a model answers, and what a player makes of it."""
