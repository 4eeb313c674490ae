"""What all clients of one server share: the model, its replies, metrics and memory."""
