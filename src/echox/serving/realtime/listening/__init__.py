"""The user's side of a session: audio as it comes, and its words before the turn is over."""
