"""How English reads what is not a plain word: a file for each kind."""
