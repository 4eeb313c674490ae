"""The realtime WebSocket protocol."""
