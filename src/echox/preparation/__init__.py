"""Texts and recordings to training shards: `settings` is the recipe, `prepare` runs it, `execute` has the workers."""
