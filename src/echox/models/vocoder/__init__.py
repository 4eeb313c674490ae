"""Unit vocoders: reduced units to durations and waveform."""
