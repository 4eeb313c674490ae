"""Decoding of untrusted audio files: an explicit list of formats, in a worker process with limits.

- `containers`: which file formats are read, recognised by their first bytes.
- `decoders`: their samples, by libsndfile and FFmpeg, within limits of rate, channels, duration and amplitude.
- `downmix`: several channels to one.
- `limits`: limits of one file.
- `worker`: the process that decodes; it cannot open other files. `pool`: its workers, as the parent uses them.
"""
