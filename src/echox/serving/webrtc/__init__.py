"""Realtime sessions over WebRTC: events on a data channel, Opus both ways, the server plays in real time (aiortc)."""
