"""Realtime sessions: conversations over the WebSocket protocol."""
