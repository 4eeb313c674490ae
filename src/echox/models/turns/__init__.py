"""What a model is told of turns: heads that judge them, adapters for one kind of turn."""
