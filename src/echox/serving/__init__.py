"""Serving: the model behind the OpenAI realtime and HTTP protocols, and pages to talk to it. Extra ``serve``."""
