"""Text-to-speech engines behind one interface: programs, models and servers."""
