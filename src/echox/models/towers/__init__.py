"""Audio towers: encoders of speech of any family behind one interface, and the recognisers that read them."""
