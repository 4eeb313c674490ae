"""Decoding of audio files that nobody vouches for: an explicit list of formats, in a worker process with limits.

- `containers`: which file formats are read, recognised by their first bytes.
- `decoders`: their samples, by libsndfile and FFmpeg, within bounds on rate, channels, duration and amplitude.
- `downmix`: several channels to one.
- `limits`: what one file may cost.
- `worker`: the process that decodes; it can open no other file. `pool`: warm workers, and what the parent does.
"""
