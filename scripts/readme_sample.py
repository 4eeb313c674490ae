"""The picture and the sounds of the README: nano answers a question that comes with the package; replies of mini.

python scripts/readme_sample.py                        docs/images/conversation.png, docs/audio/conversation.mp3, and
                                                       with mini's parts installed docs/audio/mini_1.mp3, mini_2 ...
python scripts/readme_sample.py --output out/sample    the same elsewhere

The sound of the conversation is the recording of the question, a short pause, and the reply, nothing edited. Needs the
extra ``eval`` (matplotlib).
"""

import argparse
from pathlib import Path

import matplotlib
import numpy as np
import soundfile
from PIL import Image

from echox import AudioChunk, EchoX, Reply
from echox.api.loading import best_embedded, bundled_questions
from echox.audio import load_audio
from echox.streaming.events import Heard, HeardWord, ReplyBuilder

matplotlib.use("agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.mlab import specgram

ROOT = Path(__file__).resolve().parent.parent
PAUSE_S = 0.4
MP3 = {"format": "MP3", "compression_level": 0.8, "bitrate_mode": "CONSTANT"}  # of soundfile: 1 is the smallest
INK, HEARD, SPOKEN = "#222222", "Blues", "Oranges"


def main() -> None:
    """Ask, write, draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=ROOT / "docs", help="folder of images/ and audio/")
    folder = parser.parse_args().output
    session = EchoX.from_pretrained("nano").session()
    path = bundled_questions()[0]
    question = load_audio(path, session.output_sampling_rate)
    builder = ReplyBuilder(session.output_sampling_rate)
    words: tuple[HeardWord, ...] = ()
    written_first = ""  # the text when the first sound is ready
    for event in session.stream(path):
        if isinstance(event, Heard):
            words = event.words
        elif isinstance(event, AudioChunk) and not written_first:
            written_first = builder.text
        builder.add(event)
    reply = builder.build()
    for name in ("images", "audio"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    pause = np.zeros(round(PAUSE_S * reply.sampling_rate), np.float32)
    sound = np.concatenate([question, pause, reply.waveform])
    soundfile.write(folder / "audio" / "conversation.mp3", sound, reply.sampling_rate, **MP3)
    draw(folder / "images" / "conversation.png", question, reply, words, written_first)
    if best_embedded() == "mini":
        speak_examples(folder / "audio")


def speak_examples(folder: Path) -> None:
    """Mini's replies to the examples of its own folder, typed; nothing is chosen or edited."""
    model = EchoX.from_pretrained("mini")
    for number, question in enumerate(model.about.examples, 1):
        reply = model.session().reply({"role": "user", "content": question})
        soundfile.write(folder / f"mini_{number}.mp3", reply.waveform, reply.sampling_rate, **MP3)
        print(f"{question}  {reply.text}")


def draw(path: Path, question: np.ndarray, reply: Reply, heard: tuple[HeardWord, ...], written_first: str) -> None:
    """Two spectrograms on one time axis, with the words where they are said."""
    figure, axes = plt.subplots(figsize=(9.5, 3.4), dpi=130)
    start_s = len(question) / reply.sampling_rate + PAUSE_S
    spectrogram(axes, question, reply.sampling_rate, 0.0, HEARD)
    spectrogram(axes, reply.waveform, reply.sampling_rate, start_s, SPOKEN)
    for number, word in enumerate(heard):
        label(axes, word.text, (word.start_s + word.end_s) / 2, number)
    for number, mark in enumerate(reply.timeline):
        text = reply.text[mark.text_start : mark.text_end].strip()
        label(axes, text, start_s + (mark.start_s + mark.end_s) / 2, number)
    axes.text(0, 6.4, "the question", fontsize=10, color=INK)
    axes.text(start_s, 7.3, "the reply: its first sound is ready when the model has written", fontsize=10, color=INK)
    axes.text(start_s, 6.4, f"“{written_first.strip()} …”", fontsize=10, color=INK, style="italic")
    axes.set(xlim=(0, start_s + reply.duration_s), ylim=(-2.2, 8), xlabel="seconds", yticks=[])
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    figure.tight_layout()
    figure.canvas.draw()
    pixels = Image.fromarray(np.asarray(figure.canvas.buffer_rgba())).convert("RGB")
    pixels.quantize(128, dither=Image.Dither.NONE).save(path, optimize=True)


def spectrogram(axes: Axes, waveform: np.ndarray, rate_hz: int, start_s: float, colours: str) -> None:
    """Levels down to 60 dB below the loudest, up to 6 kHz."""
    power, frequencies, _ = specgram(waveform + 1e-7, NFFT=400, noverlap=320, Fs=rate_hz / 1000)
    level = 10 * np.log10(power[frequencies <= 6] + 1e-12)
    end_s = start_s + len(waveform) / rate_hz
    top = level.max()
    axes.imshow(
        level, origin="lower", aspect="auto", extent=(start_s, end_s, 0, 6), vmin=top - 60, vmax=top, cmap=colours
    )


def label(axes: Axes, text: str, at_s: float, number: int) -> None:
    """A word below its sound, neighbours on two lines."""
    axes.text(at_s, -0.9 - 0.9 * (number % 2), text, ha="center", fontsize=8.5, color=INK)


if __name__ == "__main__":
    main()
