"""Serving: the model behind the interfaces that clients already speak. Needs the extra ``serve``."""
