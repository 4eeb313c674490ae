"""Stages that train vocoders: units to speech of the reply voice."""
