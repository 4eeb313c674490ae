"""Hear the reply while it is still being written: sound goes to a player, text to the terminal.

python examples/stream_to_player.py question.wav | aplay -q -t raw -f S16_LE -r 16000         Linux
python examples/stream_to_player.py question.wav | play -q -t raw -e signed -b 16 -r 16000 -  SoX, also on macOS
"""

import sys

from echox import AudioChunk, EchoX, TextDelta

model = EchoX.from_pretrained("nano")
with model.stream(sys.argv[1]) as stream:
    for event in stream:
        if isinstance(event, TextDelta):
            print(event.text, end="", flush=True, file=sys.stderr)
        elif isinstance(event, AudioChunk):
            assert event.sampling_rate == 16000, "the player is told 16,000 samples a second"
            samples = event.waveform.clip(-1, 1)  # beyond full scale, numbers would wrap: clicks
            sys.stdout.buffer.write((samples * 32767).astype("<i2").tobytes())
            sys.stdout.flush()  # the player waits for sound, so hand it over at once
print(file=sys.stderr)
