"""What the rules of any language need: their interface, and the words that a rule reads."""
