"""From texts and recordings to training shards: `recipe` says how, `run` does it, `execute` says where."""
