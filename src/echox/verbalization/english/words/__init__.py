"""English words for numbers, signs and short forms: tables, without rules."""
