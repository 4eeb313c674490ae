"""The microphone and the speakers of ``echox talk``, by the optional library sounddevice.

Devices are used at their own sampling rate: many take no other one (ALSA without a sound server).
"""

from types import ModuleType
from typing import TYPE_CHECKING

import typer

from echox.errors import one_line

if TYPE_CHECKING:
    import numpy as np

_REMEDY = "connect or allow one (python -m sounddevice lists them), or name audio files: echox talk a.wav b.wav"


class Microphone:
    """The default input device, which is there and can record; the default output device, if there is one.

    Attributes:
        sampling_rate: of what is recorded, Hz; the device's own.

    Raises:
        ValueError: no library, or no microphone that can be recorded from.
    """

    def __init__(self) -> None:
        self._library = _sounddevice()
        try:
            self.sampling_rate = _rate(self._library, "input")
            self._library.check_input_settings(channels=1, dtype="float32", samplerate=self.sampling_rate)
        except (self._library.PortAudioError, ValueError) as error:
            raise ValueError(f"expected a microphone, found none that works ({_one(error)}); {_REMEDY}") from error

    def record(self) -> "np.ndarray | None":
        """One turn, between two presses of Enter: float32 (S,); None: the user ends the conversation.

        Raises:
            ValueError: the microphone cannot be recorded from any more.
        """
        import numpy as np

        blocks: list[np.ndarray] = []
        try:
            if input("Enter to speak, q to end: ").strip().lower() == "q":
                return None
            with self._library.InputStream(
                samplerate=self.sampling_rate,
                channels=1,
                dtype="float32",
                callback=lambda data, *_: blocks.append(data[:, 0].copy()),
            ):
                input("speaking ... Enter to stop")
        except EOFError:  # Ctrl-D, also while speaking
            return None
        except self._library.PortAudioError as error:
            raise ValueError(
                f"expected to record from the microphone at {self.sampling_rate} Hz, found that it fails "
                f"({_one(error)}); {_REMEDY}"
            ) from error
        return np.concatenate(blocks) if blocks else np.zeros(0, np.float32)

    def play(self, waveform: "np.ndarray", sampling_rate: int) -> None:
        """Play a reply to its end; without speakers that work, say so and go on: it is in a file anyway."""
        from echox.audio import resample

        try:
            rate = _rate(self._library, "output")
            self._library.play(resample(waveform, sampling_rate, rate), rate, blocking=True)
        except (self._library.PortAudioError, ValueError) as error:
            typer.echo(f"warning: not played, expected speakers, found none that work ({_one(error)})", err=True)


def _sounddevice() -> ModuleType:
    """The optional library."""
    try:
        import sounddevice
    except Exception as error:  # ImportError; OSError: no PortAudio; and its own: PortAudio does not start
        raise ValueError(
            f"expected audio files or a microphone, found neither ({_one(error)}); name files: echox talk a.wav b.wav, "
            "or pip install sounddevice (Linux: also apt install libportaudio2)"
        ) from error
    return sounddevice


def _rate(library: ModuleType, kind: str) -> int:
    """The sampling rate of the default device of a kind ("input" or "output"), Hz."""
    return round(library.query_devices(kind=kind)["default_samplerate"])


def _one(error: Exception) -> str:
    """What PortAudio says, in one line, also where it is an exception of its own kind."""
    return one_line(ValueError(str(error) or type(error).__name__))
