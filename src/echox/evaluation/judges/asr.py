"""Judges: recognisers that transcribe spoken replies for scoring, behind one interface.

A judge stands for a listener, so it must not be trained on the speech that it judges. Nano's judge is trained on
original speech only, never on speech made from units, and has no language model that could guess words.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from echox.api.parts import installed_folder
from echox.audio import encode_audio, load_audio, resample
from echox.data.features.corpus_features import log_mel
from echox.data.lexicon import Lexicon
from echox.data.manifest import audio_path, read_utterances
from echox.data.sampling import spread
from echox.data.scoring import normalize_words, word_errors
from echox.evaluation.judges.lexicon_decoder import LexiconDecoder
from echox.evaluation.judges.moonshine import PACKAGE, REQUIREMENT, MoonshineASR
from echox.evaluation.judges.open_vocabulary import OpenVocabularyJudge
from echox.evaluation.judges.sphinx import PocketsphinxASR
from echox.evaluation.scoring.records import fingerprint
from echox.evaluation.scoring.schema import JsonObject
from echox.evaluation.subjects.endpoint import Endpoint
from echox.files import content_digest
from echox.models.conversion.moonshine_files import find_ort_moonshine
from echox.models.echox.configuration_echox import SpeechEncoderConfig
from echox.models.echox.modeling_speech_encoder import SpeechEncoderForCTC

DEFAULT_JUDGE = "openai/whisper-large-v3"
"""The recogniser that UltraEval-Audio uses."""
MOONSHINE = "moonshine"
"""Name of the judge that an installed package holds (`judges/moonshine.py`)."""
POCKETSPHINX = "pocketsphinx"
"""Name of another (`judges/sphinx.py`)."""
EMBEDDED = "embedded"
"""Name of nano's judge, which this package holds."""


class Judge(Protocol):
    """Speech recogniser used for scoring.

    Attributes:
        name: states everything that its transcripts depend on.
        sampling_rate: Hz of the audio that it expects.
    """

    name: str
    sampling_rate: int

    def unknown_words(self, text: str) -> int:
        """Number of words of a text that it cannot write, as they are not in its vocabulary."""
        ...

    def as_heard(self, text: str) -> str:
        """``text`` as this judge would write it if it recognised every sound; references are compared in this form."""
        ...

    def transcribe(self, waveforms: Sequence[np.ndarray], sampling_rate: int) -> list[str]:
        """Transcript of each waveform (samples,), float32 in [-1, 1]."""
        ...


def read_pronunciations(lexicon: str | Path) -> list[tuple[str, tuple[str, ...]]]:
    """Words, normalised as for word error rates, with their phones; a word may have several pronunciations.

    Args:
        lexicon: file of a :class:`Lexicon`.

    Raises:
        ValueError: not such a file, or an entry that is not one word.
    """
    found: dict[tuple[str, tuple[str, ...]], None] = {}
    for written, ways in Lexicon(lexicon).pronunciations.items():
        words = normalize_words(written)
        if len(words) != 1:
            raise ValueError(f"{lexicon}: expected single words, found {written!r}: split it into its words")
        found.update(dict.fromkeys((words[0], tuple(way)) for way in ways if way))
    return list(found)


class PhoneCTCJudge:
    """The phone head of a :class:`SpeechEncoderForCTC`, decoded by Viterbi search over a flat lexicon.

    Args:
        folder: output of the ``encoder`` stage.
        lexicon: see :func:`read_pronunciations`.
        word_penalty: log probability that is subtracted for each word.

    Raises:
        ValueError: the model has no phone head or its phones are not the lexicon's.
    """

    def __init__(self, folder: str | Path, lexicon: str | Path, word_penalty: float = 0.5) -> None:
        self.model = SpeechEncoderForCTC.from_pretrained(folder, dtype=torch.float32).eval()
        entries = read_pronunciations(lexicon)
        phone_ids = self.model.phone_ids()
        missing = {phone for _, phones in entries for phone in phones} - set(phone_ids)
        if missing:
            raise ValueError(
                f"{folder}: expected a phone head that knows all phones of {lexicon}, found none for "
                f"{sorted(missing)}: use the encoder stage's output for this corpus"
            )
        self.words = [word for word, _ in entries]
        self._vocabulary = frozenset(self.words)
        self.sampling_rate = self.model.config.sampling_rate
        self._spelling = homophones(entries)
        self.name = (
            f"phone CTC (weights {fingerprint(self.model)}), flat lexicon of {len(set(self.words))} words, "
            f"no language model, word penalty {word_penalty:g}"
        )
        self._decoder = LexiconDecoder(
            [[phone_ids[phone] for phone in phones] for _, phones in entries],
            blank_id=self.model.config.phone_blank_id,
            word_penalty=word_penalty,
        )

    @torch.inference_mode()
    def phone_log_probs(self, waveform: np.ndarray, sampling_rate: int) -> np.ndarray:
        """(frames, phones incl. blank) natural logs of one waveform (samples,)."""
        config = self.model.config
        features = log_mel(
            resample(waveform, sampling_rate, config.sampling_rate),
            config.sampling_rate,
            config.audio_config.num_mel_bins,
        )
        logits = self.model(features[None].to(self.model.device)).phone_logits[0]
        return torch.log_softmax(logits.float(), dim=-1).cpu().numpy()

    def transcribe(self, waveforms: Sequence[np.ndarray], sampling_rate: int) -> list[str]:
        """See :class:`Judge`. An empty waveform is silence: no words."""
        texts = []
        for waveform in waveforms:
            found = self._decoder.decode(self.phone_log_probs(waveform, sampling_rate)) if len(waveform) else []
            texts.append(self.as_heard(" ".join(self.words[word] for word in found)))
        return texts

    def as_heard(self, text: str) -> str:
        """See :class:`Judge`. Homophones count as one word: without a language model "four" and "for" are equal."""
        return " ".join(self._spelling.get(word, word) for word in normalize_words(text))

    def unknown_words(self, text: str) -> int:
        """See :class:`Judge`."""
        return sum(word not in self._vocabulary for word in normalize_words(text))


def homophones(entries: Sequence[tuple[str, tuple[str, ...]]]) -> dict[str, str]:
    """Word -> the first word of the lexicon with the same phones, from (word, phones) entries."""
    first: dict[tuple[str, ...], str] = {}
    spelling: dict[str, str] = {}
    for word, phones in entries:
        first.setdefault(phones, word)
        spelling.setdefault(word, spelling.get(first[phones], first[phones]))
    return spelling


class TransformersASR(OpenVocabularyJudge):
    """Any speech recogniser of transformers, for example ``openai/whisper-large-v3`` (UltraEval-Audio's judge)."""

    def __init__(self, model_id: str, device: str | None = None) -> None:
        from transformers import pipeline

        self._pipeline = pipeline("automatic-speech-recognition", model=model_id, device=device)
        if Path(model_id).is_dir():  # wherever it lies, and whatever was trained into it since
            self.name = f"{Path(model_id).resolve().name} (files {content_digest(model_id)})"
        else:
            revision = getattr(self._pipeline.model.config, "_commit_hash", None)
            self.name = f"{model_id} (revision {revision[:12]})" if revision else model_id

    def transcribe(self, waveforms: Sequence[np.ndarray], sampling_rate: int) -> list[str]:
        """See :class:`Judge`. The language is detected, as UltraEval-Audio does."""
        inputs = [{"raw": waveform, "sampling_rate": sampling_rate} for waveform in waveforms]
        # The pipeline takes lists; its annotation does not say so.
        results = self._pipeline(inputs, return_timestamps=True)  # type: ignore[arg-type]
        return [result["text"].strip() for result in results]


class OpenAICompatibleASR(OpenVocabularyJudge):
    """A recogniser behind ``POST {url}/audio/transcriptions``, as OpenAI, vLLM or faster-whisper-server offer it.

    Args:
        url: base, ending in ``/v1``.
        model: name of the model there.
        api_key: None = ``OPENAI_API_KEY`` of the environment, or no key.
        timeout_s: of one request.
    """

    def __init__(self, url: str, model: str, api_key: str | None = None, timeout_s: float = 60.0) -> None:
        self._endpoint = Endpoint(url, api_key, timeout_s)
        self._model = model
        self.name = f"{model} at {self._endpoint.url}"

    def transcribe(self, waveforms: Sequence[np.ndarray], sampling_rate: int) -> list[str]:
        """See :class:`Judge`.

        Raises:
            ValueError: the server cannot be reached in time, refuses, or answers without a transcript.
        """
        return [self._one(encode_audio(waveform, sampling_rate)) for waveform in waveforms]

    def _one(self, wav: bytes) -> str:
        boundary = uuid.uuid4().hex
        fields = {"model": self._model, "response_format": "json", "temperature": "0"}
        answer = self._endpoint.post(
            "/audio/transcriptions", _multipart(boundary, fields, wav), f"multipart/form-data; boundary={boundary}"
        )
        if not isinstance(answer, dict) or not isinstance(answer.get("text"), str):
            raise ValueError(f'{self.name}: expected {{"text": ...}}, found {str(answer)[:200]}')
        return answer["text"].strip()


def _multipart(boundary: str, fields: dict[str, str], wav: bytes) -> bytes:
    """The body of an HTTP form with one file (RFC 7578)."""
    lines = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in fields.items()
    ]
    lines.append(
        f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="reply.wav"\r\n'
        "Content-Type: audio/wav\r\n\r\n"
    )
    return "".join(lines).encode() + wav + f"\r\n--{boundary}--\r\n".encode()


def embedded_judge() -> Path:
    """Folder of the judge inside the package, for nano: the output of `recipes/nano/judge.yaml`, in float16."""
    return Path(str(files("echox") / "assets" / "judge"))


def nano_judge(data: Path) -> Path:
    """The judge that was trained in a folder of the nano corpus, else the embedded one."""
    trained = data / "judge"
    return trained if trained.is_dir() else embedded_judge()


def open_judge(judge: str | Path, lexicon: str | Path, word_penalty: float = 0.5) -> Judge:
    """A judge by name.

    Args:
        judge: folder of the encoder stage or of Moonshine's files; "embedded" (nano's); "moonshine" and "pocketsphinx"
            (installed packages that hold them); ``http://host:port/v1#model``; or a recogniser of transformers.
        lexicon: see :func:`read_pronunciations`; of a judge of the encoder stage.
        word_penalty: of such a judge.

    Raises:
        ValueError: a URL without a model, no such folder, or the package is not installed.
    """
    name = str(judge)
    if name == MOONSHINE:
        return MoonshineASR(moonshine_folder())
    if name == POCKETSPHINX:
        return PocketsphinxASR()
    if name == EMBEDDED:
        return PhoneCTCJudge(embedded_judge(), lexicon, word_penalty)
    if name.startswith(("http://", "https://")):
        url, _, model = name.partition("#")
        if not model:
            raise ValueError(
                f"judge: expected a URL and a model, as in http://127.0.0.1:8000/v1#whisper-1, found {name}"
            )
        return OpenAICompatibleASR(url, model)
    config = Path(name) / "config.json"
    if config.is_file():
        kind = json.loads(config.read_text(encoding="utf-8")).get("model_type")
        if kind == SpeechEncoderConfig.model_type:
            return PhoneCTCJudge(name, lexicon, word_penalty)
    elif Path(name).is_dir() and (found := find_ort_moonshine(Path(name))) is not None:
        return MoonshineASR(found)
    elif name.count("/") != 1 or name.startswith((".", "/")) or Path(name).parent.exists():
        raise ValueError(
            f"judge: expected a model folder, a URL or a hub id, found no {config}; train the encoder first"
        )
    return TransformersASR(name)


def moonshine_folder() -> Path:
    """Moonshine's files in the installed package.

    Raises:
        ValueError: it is not installed, or of a version without them.
    """
    package = installed_folder(PACKAGE)
    found = find_ort_moonshine(package) if package is not None else None
    if found is None:
        what = "none" if package is None else "another version"
        raise ValueError(
            f"judge {MOONSHINE}: expected the package of {REQUIREMENT}, found {what}; "
            f"pip install --no-deps {REQUIREMENT}"
        )
    return found


JUDGE_RATE_HZ = 16000


def recordings_wer(judge: Judge, data_dir: Path, limit: int | None = None) -> JsonObject:
    """The judge's word error rate on held-out original recordings of the reply voice.

    Raises:
        ValueError: the corpus has no such recordings.
    """
    manifest = data_dir / "speech" / "replies.jsonl"
    items = [item for item in read_utterances(manifest) if item.split != "train"] if manifest.exists() else []
    if not items:
        raise ValueError(f"{manifest}: expected held-out recordings, found none: run the corpus stage")
    items = spread(items, limit or len(items))
    said = [judge.transcribe([load_audio(audio_path(manifest, item.audio))], JUDGE_RATE_HZ)[0] for item in items]
    return {"wer": word_errors([judge.as_heard(item.text) for item in items], said).rate, "count": len(items)}
