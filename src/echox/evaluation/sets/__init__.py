"""Test sets: their items, the held-out questions that come with the package, and the tasks made of them."""
