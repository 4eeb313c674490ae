"""Corpora as lhotse Shar shards, on a disk or in an object store: indexed once, read item by item where they are."""
