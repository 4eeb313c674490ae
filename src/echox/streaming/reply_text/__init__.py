"""From the tokens of a reply to what is spoken of it: settings, text, calls apart, spoken words, segments."""
