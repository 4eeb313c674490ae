"""Stage "align": an utterance manifest gains the times at which its words end, which units with words need.

A recogniser that was trained with CTC tells: an ear of stage "encoder", or any of the hub (wav2vec 2.0, MMS: letters).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoFeatureExtractor, AutoModelForCTC, AutoTokenizer

from echox.audio import load_audio
from echox.config import recipe
from echox.data.ctc_alignment import word_ends
from echox.data.features import log_mel
from echox.data.manifest import Utterance, audio_path, read_utterances, write_utterances
from echox.device import choose_device
from echox.models.configuration_echox import SpeechEncoderConfig
from echox.models.modeling_speech_encoder import SpeechEncoderForCTC
from echox.models.tokenization_text import word_index


@recipe("align")
@dataclass
class AlignRecipe:
    """Recipe of stage "align" (nothing is trained: it has `run`, not `build`).

    Attributes:
        utterances: manifest. output: manifest to write, in the same folder (its audio paths are relative).
        recogniser: folder of stage "encoder", or folder or hub id of a CTC model of transformers with its tokenizer.
        keep_going: leave out (and count) what cannot be aligned, instead of stopping.
    """

    stage: str
    utterances: str
    output: str
    recogniser: str
    keep_going: bool = False
    device: str = "auto"

    def run(self) -> dict[str, float]:
        """Writes the manifest; returns how many were aligned and left out.

        Raises:
            ValueError: another folder for the output, or (without `keep_going`) what cannot be aligned, by id.
        """
        source, target = Path(self.utterances), Path(self.output)
        if source.parent.resolve() != target.parent.resolve():
            raise ValueError(f"output: expected a file in {source.parent} (audio paths are relative), found {target}")
        listener = open_listener(self.recogniser, choose_device(self.device))
        aligned: list[Utterance] = []
        items = read_utterances(source)
        for item in items:
            waveform = load_audio(audio_path(source, item.audio), listener.sampling_rate)
            try:
                ends = listener.word_ends(waveform, item.text)
            except ValueError as error:
                if not self.keep_going:
                    raise ValueError(f"{source}: {item.id}: {error}") from error
                print(f"align: left out {item.id}: {error}", flush=True)
                continue
            ends = tuple(min(end_s, item.duration_s) for end_s in ends)
            aligned.append(dataclasses.replace(item, word_ends_s=ends))
        write_utterances(target, aligned)
        return {"aligned": float(len(aligned)), "left_out": float(len(items) - len(aligned))}


class Letters:
    """A CTC model of transformers over letters."""

    def __init__(self, name: str, device: torch.device) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(name)
        self.extractor = AutoFeatureExtractor.from_pretrained(name)
        self.model = AutoModelForCTC.from_pretrained(name, dtype=torch.float32).to(device).eval()
        self.sampling_rate = int(self.extractor.sampling_rate)
        self.vocabulary = self.tokenizer.get_vocab()

    @torch.inference_mode()
    def word_ends(self, waveform: np.ndarray, text: str) -> tuple[float, ...]:
        """End of each word of `text`, in seconds."""
        inputs = self.extractor(waveform, sampling_rate=self.sampling_rate, return_tensors="pt").input_values
        logits = self.model(inputs.to(self.model.device)).logits[0]
        duration_s = len(waveform) / self.sampling_rate
        spell = str.upper if "A" in self.vocabulary else str.lower
        known = self.vocabulary
        labels = [[known[letter] for letter in spell(word) if letter in known] for word in text.split()]
        log_probs = logits.float().log_softmax(-1).cpu().numpy()
        return word_ends(log_probs, labels, self.tokenizer.pad_token_id, duration_s / len(log_probs), duration_s)


class Ear:
    """A model of stage "encoder": CTC over the text tokenizer's tokens."""

    def __init__(self, name: str, device: torch.device) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(name)
        self.model = SpeechEncoderForCTC.from_pretrained(name, dtype=torch.float32).to(device).eval()
        self.sampling_rate = int(self.model.config.sampling_rate)

    @torch.inference_mode()
    def word_ends(self, waveform: np.ndarray, text: str) -> tuple[float, ...]:
        """End of each word of `text`, in seconds."""
        config = self.model.config
        features = log_mel(waveform, self.sampling_rate, config.audio_config.num_mel_bins)
        logits = self.model(features[None].to(self.model.device)).logits[0]
        duration_s = len(waveform) / self.sampling_rate
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        labels: list[list[int]] = [[] for _ in text.split()]
        for token_id, word in zip(ids, word_index(self.tokenizer, ids), strict=True):
            if 0 <= word < len(labels):
                labels[word].append(token_id)
        log_probs = logits.float().log_softmax(-1).cpu().numpy()
        return word_ends(log_probs, labels, config.blank_token_id, duration_s / len(log_probs), duration_s)


def open_listener(name: str, device: torch.device) -> Any:
    """The recogniser in a folder or repository."""
    ours = isinstance(AutoConfig.from_pretrained(name), SpeechEncoderConfig)
    return Ear(name, device) if ours else Letters(name, device)
