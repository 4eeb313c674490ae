"""The same questions put to many models of one study, in batches, and their scores."""
