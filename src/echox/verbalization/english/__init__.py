"""American English: the rules in order; ``rules/`` has a file for each kind, ``words/`` their tables."""
