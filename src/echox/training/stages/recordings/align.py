"""Stage "align": add to a manifest the times at which words end, which the units of each word need.

They come from a recogniser trained with CTC: a speech encoder of stage "encoder", or a model of the hub (wav2vec 2.0,
MMS: letters). Utterances are aligned in batches, in one process or several; a stopped run continues where it stopped.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import AutoConfig, AutoFeatureExtractor, AutoModelForCTC, AutoTokenizer

from echox.config import recipe
from echox.data.features.corpus_features import log_mel, pad_features
from echox.data.manifest import Utterance, read_utterances, write_utterances
from echox.files import stamp
from echox.models.echox.configuration_echox import SpeechEncoderConfig
from echox.models.echox.modeling_speech_encoder import SpeechEncoderForCTC
from echox.models.text.tokenization_text import word_index
from echox.models.text.word_breaks import check_spaces, white_space_words
from echox.training.stages.recordings.ctc_alignment import word_ends
from echox.training.stages.recordings.utterance_stage import Row, batch_results, kept, work_on, worker_device

WordEnds = tuple[float, ...] | ValueError
"""End of each word in seconds, or why they could not be found."""


@recipe("align")
@dataclass
class AlignRecipe:
    """Recipe of stage "align" (nothing is trained: it has `run`, not `build`).

    Attributes:
        utterances: manifest. output: manifest to write, in the same folder (its audio paths are relative).
        recogniser: folder of stage "encoder", or folder or hub id of a CTC model of transformers with its tokenizer.
        keep_going: leave out (and count) utterances that cannot be read or aligned, instead of stopping.
        batch_size: utterances in one batch (one by one for a wav2vec 2.0 whose results depend on padding).
        workers: processes; they are distributed over the GPUs.
    """

    stage: str
    utterances: str
    output: str
    recogniser: str
    keep_going: bool = False
    device: str = "auto"
    batch_size: int = 8
    workers: int = 1

    def run(self) -> dict[str, float]:
        """Writes the manifest; returns how many were aligned and left out.

        Raises:
            ValueError: another folder for the output, or (without `keep_going`) an utterance that cannot be aligned.
        """
        source, target = Path(self.utterances), Path(self.output)
        if source.parent.resolve() != target.parent.resolve():
            raise ValueError(f"output: expected a file in {source.parent} (audio paths are relative), found {target}")
        items = read_utterances(source)
        make = functools.partial(
            AlignChunk, self.recogniser, self.device, self.batch_size, self.workers, None if self.keep_going else source
        )
        settings = (self.recogniser, stamp(self.recogniser))
        found = work_on("align", make, settings, items, source, target, self.batch_size, self.workers)
        left_out: list[str] = []
        found = kept("align", found, self.utterances, left_out if self.keep_going else None)
        write_utterances(target, self._aligned(found))
        return {"aligned": float(len(items) - len(left_out)), "left_out": float(len(left_out))}

    @staticmethod
    def _aligned(found: Iterator[tuple[Utterance, Row]]) -> Iterator[Utterance]:
        for item, result in found:
            ends = tuple(min(end_s, item.duration_s) for end_s in result["word_ends_s"])
            yield dataclasses.replace(item, word_ends_s=ends)


class AlignChunk:
    """Aligns rows of utterances: one result each, with ``word_ends_s``, or ``dropped`` and ``detail``.

    Args:
        recogniser: see `AlignRecipe`. device, batch_size, workers: see there.
        stop_in: the manifest, for the error, if a row that cannot be aligned ends the run; None: it is left out.
    """

    def __init__(self, recogniser: str, device: str, batch_size: int, workers: int, stop_in: Path | None) -> None:
        self.recogniser = open_recogniser(recogniser, worker_device(device, workers))
        self.batch_size, self.stop_in = batch_size, stop_in

    def __call__(self, rows: Sequence[Row]) -> list[Row]:
        """See the class.

        Raises:
            ValueError: with `stop_in`, the first row that cannot be read or aligned.
        """
        return batch_results(rows, self.batch_size, self.recogniser.sampling_rate, self._align, self.stop_in)

    def _align(self, rows: Sequence[Row], waveforms: Sequence[np.ndarray]) -> list[Row | ValueError]:
        found = self.recogniser.word_ends(waveforms, [row["text"] for row in rows])
        found = [_without_spaces(row["text"]) or ends for row, ends in zip(rows, found, strict=True)]
        return [ends if isinstance(ends, ValueError) else {"word_ends_s": list(ends)} for ends in found]


class LetterRecogniser:
    """A CTC model of transformers over letters."""

    def __init__(self, name: str, device: torch.device) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(name)
        self.extractor = AutoFeatureExtractor.from_pretrained(name)
        self.model = AutoModelForCTC.from_pretrained(name, dtype=torch.float32).to(device).eval()
        self.sampling_rate = int(self.extractor.sampling_rate)
        self.vocabulary = self.tokenizer.get_vocab()
        # Group normalisation in the first convolution averages over padding too: such a model was trained without a
        # mask, and padding changes its results (documentation of transformers' Wav2Vec2FeatureExtractor).
        self.reads_padding = not bool(getattr(self.extractor, "return_attention_mask", False))

    @torch.inference_mode()
    def word_ends(self, waveforms: Sequence[np.ndarray], texts: Sequence[str]) -> list[WordEnds]:
        """End of each word of each text, in seconds."""
        size = 1 if self.reads_padding else len(waveforms)
        found: list[WordEnds] = []
        for start in range(0, len(waveforms), size):
            part = [np.asarray(one) for one in waveforms[start : start + size]]
            inputs = self.extractor(part, sampling_rate=self.sampling_rate, return_tensors="pt", padding=True)
            logits = self.model(**inputs.to(self.model.device)).logits.float().log_softmax(-1).cpu().numpy()
            lengths = self.model._get_feat_extract_output_lengths(torch.tensor([len(one) for one in part])).tolist()
            for scores, frames, one, text in zip(logits, lengths, part, texts[start : start + size], strict=True):
                found.append(self._of(scores[:frames], len(one) / self.sampling_rate, text))
        return found

    def _of(self, log_probs: np.ndarray, duration_s: float, text: str) -> WordEnds:
        spell = str.upper if "A" in self.vocabulary else str.lower
        known = self.vocabulary
        labels = [[known[letter] for letter in spell(word) if letter in known] for word in text.split()]
        return _ends_or_error(log_probs, labels, self.tokenizer.pad_token_id, duration_s)


class TokenRecogniser:
    """A model of stage "encoder": CTC over the text tokenizer's tokens."""

    def __init__(self, name: str, device: torch.device) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(name)
        self.model = SpeechEncoderForCTC.from_pretrained(name, dtype=torch.float32).to(device).eval()
        self.sampling_rate = int(self.model.config.sampling_rate)

    @torch.inference_mode()
    def word_ends(self, waveforms: Sequence[np.ndarray], texts: Sequence[str]) -> list[WordEnds]:
        """End of each word of each text, in seconds."""
        mels = self.model.config.audio_config.num_mel_bins
        features, mask = pad_features([log_mel(one, self.sampling_rate, mels).T for one in waveforms])
        device = self.model.device
        output = self.model(features.to(device), mask.to(device))
        logits = output.logits.float().log_softmax(-1).cpu().numpy()
        lengths = output.mask.sum(dim=1).tolist()
        return [
            self._of(scores[:frames], len(one) / self.sampling_rate, text)
            for scores, frames, one, text in zip(logits, lengths, waveforms, texts, strict=True)
        ]

    def _of(self, log_probs: np.ndarray, duration_s: float, text: str) -> WordEnds:
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        labels: list[list[int]] = [[] for _ in text.split()]
        for token_id, word in zip(ids, white_space_words(text, word_index(self.tokenizer, ids)), strict=True):
            if 0 <= word < len(labels):
                labels[word].append(token_id)
        return _ends_or_error(log_probs, labels, self.model.blank_token_id, duration_s)


def _without_spaces(text: str) -> ValueError | None:
    try:
        check_spaces(text)
    except ValueError as error:
        return error
    return None


def _ends_or_error(
    log_probs: np.ndarray, labels: Sequence[Sequence[int]], blank_id: int, duration_s: float
) -> WordEnds:
    try:
        return word_ends(log_probs, labels, blank_id, duration_s / len(log_probs), duration_s)
    except ValueError as error:
        return error


def open_recogniser(name: str, device: torch.device) -> LetterRecogniser | TokenRecogniser:
    """The recogniser in a folder or repository."""
    ours = isinstance(AutoConfig.from_pretrained(name), SpeechEncoderConfig)
    return TokenRecogniser(name, device) if ours else LetterRecogniser(name, device)
