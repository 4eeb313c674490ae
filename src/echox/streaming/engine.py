"""The engine: one model and its processor, without any state of a conversation. Sessions share it.

Its steps, each a method: hear (audio to the frames that the language model reads, and a transcript), prompt (lay out a
conversation), advance (inputs into a key-value cache), speak (segments of the reply to sound).

Letters: N prompt positions, K kept frames of an audio, H width of the language model, R reply tokens of a segment,
S samples.

Source: EchoX (arXiv 2509.09174), section on streaming inference.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache

from echox.models.tokenization_text import word_index
from echox.streaming.decoding import GenerationSettings
from echox.streaming.events import Timings
from echox.streaming.messages import Audio, Message
from echox.streaming.trigger import Trigger


@dataclass(frozen=True, eq=False)
class HeardAudio:
    """An encoded audio: ``embeds`` (K, H) and the greedy transcript."""

    embeds: Tensor
    text: str


@dataclass(frozen=True, eq=False)
class Prompt:
    """A conversation as the language model reads it.

    Attributes:
        embeds: (N, H).
        keys: N hashable names of the positions: a token id, or (audio, frame). Equal keys mean equal inputs, so a
            cache of an earlier turn can be continued.
    """

    embeds: Tensor
    keys: list[Any]


@dataclass(frozen=True, eq=False)
class SegmentText:
    """What is to be spoken: ``states`` (R, H) that predict the tokens ``token_ids`` of a segment."""

    states: Tensor
    token_ids: list[int]
    text: str
    number: int


@dataclass(frozen=True, eq=False)
class Spoken:
    """The speech of a segment; ``problem`` says why it is missing (no waveform) or may be incomplete."""

    waveform: np.ndarray | None
    problem: str | None


class Engine:
    """Everything of a model that does not change while it talks.

    Args:
        model: the S2S model, in evaluation mode.
        processor: feature extractor, tokenizer and unit language.
        trigger: the segment decision.

    Raises:
        ValueError: parts that do not belong together.
    """

    def __init__(self, model: Any, processor: Any, trigger: Trigger) -> None:
        self.model = model
        self.processor = processor
        self.tokenizer = processor.tokenizer
        self.unit_language = processor.unit_language
        self.trigger = trigger
        self._check_parts()
        self.device = next(model.parameters()).device
        self.input_sampling_rate = int(processor.feature_extractor.sampling_rate)
        self.output_sampling_rate = int(model.vocoder.sampling_rate)
        self._lm = model.s2t.language_model
        self._decoder = self._lm.base_model
        self._head = self._lm.get_output_embeddings()
        self.eos_ids = self._eos_ids()
        self._control_tokens = [str(token) for token in self.tokenizer.added_tokens_decoder.values() if token.special]
        # The row that scores sentence ends: the last token of "." as the tokenizer writes it alone.
        period = self.tokenizer(".", add_special_tokens=False)["input_ids"][-1]
        self._period_row = self._head.weight[period].detach().float()
        self.max_positions = int(getattr(self._lm.config.get_text_config(), "max_position_embeddings", 0)) or None

    def _eos_ids(self) -> frozenset[int]:
        found = {self.tokenizer.eos_token_id}
        settings = getattr(self._lm, "generation_config", None)
        extra = getattr(settings, "eos_token_id", None)
        found.update(extra if isinstance(extra, list | tuple) else [extra])
        found.discard(None)
        if not found:
            raise ValueError("tokenizer: expected an eos token that ends a reply, found none; set tokenizer.eos_token")
        return frozenset(int(token_id) for token_id in found)

    def _check_parts(self) -> None:
        words = self.model.config.echo_decoder_config.num_unit_words
        if self.model.vocoder is None:
            raise ValueError("expected a vocoder in the model, found none; put one into its folder (stage package)")
        if self.unit_language is None:
            raise ValueError(
                "expected a unit language beside the model, found none; copy unit_language.json into its folder"
            )
        if len(self.unit_language) != words:
            raise ValueError(
                f"unit language: expected {words} unit words (the echo decoder's), found {len(self.unit_language)}; "
                "use the unit_language.json that the echo decoder was trained with"
            )

    # ------------------------------------------------------------------------------------------ question

    def hear(self, audio: Audio) -> HeardAudio:
        """Encode one audio, window by window if it is long.

        Raises:
            ValueError: nothing in it could be heard.
        """
        inputs = self.processor.extract_features([audio.waveform], audio.sampling_rate)
        states, transcript = self.model.s2t.hear(**{name: value.to(self.device) for name, value in inputs.items()})
        text = self.tokenizer.decode(transcript[0], skip_special_tokens=True).strip()
        if not text:
            raise ValueError(
                f"expected speech, found no speech in {audio.duration_s:.1f} s of audio; speak louder or closer"
            )
        return HeardAudio(states[0], text)

    def prompt(self, messages: Sequence[Message], heard: dict[Audio, HeardAudio]) -> Prompt:
        """Lay out a conversation: the chat template's tokens, each audio placeholder replaced by what was heard.

        Raises:
            ValueError: text that holds special tokens (it could pose as another turn), or a prompt that leaves no room
                for a reply.
        """
        for message in messages:
            self._check_text(message)
        audios = [audio for message in messages for audio in message.audios]
        ids = self.tokenizer.apply_chat_template(
            [message.for_template() for message in messages],
            tokenize=True,
            add_generation_prompt=True,
            return_dict=True,
        )["input_ids"]
        audio_token_id = self.model.s2t.config.audio_token_id
        assert ids.count(audio_token_id) == len(audios), "the chat template writes one placeholder per audio"
        embeds = self._lm.get_input_embeddings()(torch.tensor(ids, device=self.device))
        parts: list[Tensor] = []
        keys: list[Any] = []
        waiting = iter(audios)
        for position, token_id in enumerate(ids):
            if token_id != audio_token_id:
                parts.append(embeds[position : position + 1])
                keys.append(token_id)
                continue
            audio = next(waiting)
            frames = heard[audio].embeds.to(embeds.dtype)
            parts.append(frames)
            keys.extend((audio, frame) for frame in range(len(frames)))
        if self.max_positions is not None and len(keys) >= self.max_positions:
            raise ValueError(
                f"the conversation is too long: expected fewer than {self.max_positions} positions, found {len(keys)}; "
                "start a new session or ask in shorter turns"
            )
        return Prompt(torch.cat(parts), keys)

    def _check_text(self, message: Message) -> None:
        for text in (part for part in message.parts if isinstance(part, str)):
            found = [token for token in self._control_tokens if token in text]
            if found:
                raise ValueError(
                    f"{message.role} message: expected plain text, found the special token {found[0]}; take it out"
                )

    # ------------------------------------------------------------------------------------------ text

    def advance(self, embeds: Tensor, cache: DynamicCache) -> Tensor:
        """Run inputs (N, H) after what the cache holds; return the last state (H,), which predicts the next token."""
        output = self._decoder(inputs_embeds=embeds[None], past_key_values=cache, use_cache=True)
        return output.last_hidden_state[0, -1]

    def embed(self, token_id: int) -> Tensor:
        """(1, H) input of one token."""
        return self._lm.get_input_embeddings()(torch.tensor([token_id], device=self.device))

    def logits(self, state: Tensor) -> Tensor:
        """(vocabulary,) scores of the token that a state (H,) predicts."""
        return self._head(state)

    def score(self, state: Tensor) -> float:
        """Trigger score of a token: cos(the state (H,) that predicts it, lm_head row of ".")."""
        return float(torch.cosine_similarity(state.float(), self._period_row, dim=0))

    # ------------------------------------------------------------------------------------------ speech

    def speak(self, segments: Sequence[SegmentText], settings: GenerationSettings, timings: Timings) -> list[Spoken]:
        """Speak segments of one reply, batched while decoding is greedy; a segment that fails is sampled once more.

        A segment's own seed makes its speech independent of how many segments are spoken at once.

        Args:
            segments: in order.
            settings: sampling of unit words and of the second try.
            timings: ``echo_s`` and ``vocoder_s`` grow.
        """
        greedy = settings.echo_temperature == 0
        groups = [list(segments)] if greedy else [[segment] for segment in segments]
        spoken: list[Spoken] = []
        for group in groups:
            first = self._try(group, settings.echo_temperature, settings.echo_top_p, settings.seed, timings)
            for segment, attempt in zip(group, first, strict=True):
                if attempt.problem is not None and settings.retry_temperature > 0:
                    again = self._try([segment], settings.retry_temperature, 1.0, settings.seed + 1, timings)[0]
                    # A second try that is no better must not replace speech that is merely too long.
                    attempt = again if again.problem is None or attempt.waveform is None else attempt
                spoken.append(attempt)
        return spoken

    def _try(
        self, segments: Sequence[SegmentText], temperature: float, top_p: float, seed: int, timings: Timings
    ) -> list[Spoken]:
        """One attempt: states -> denoised states -> unit words -> units -> waveform, for all segments at once."""
        with timed(timings, "echo_s"):
            word_ids = [self.word_ids(segment.token_ids) for segment in segments]
            tokens = [torch.tensor(segment.token_ids, device=self.device) for segment in segments]
            generator = torch.Generator(self.device).manual_seed(seed * 1_000_003 + segments[0].number)
            sequences = self.model.generate_unit_words(
                pad_sequence([segment.states for segment in segments], batch_first=True),
                pad_sequence(tokens, batch_first=True, padding_value=-1),
                pad_sequence(word_ids, batch_first=True, padding_value=-1).to(self.device),
                do_sample=temperature > 0,
                temperature=temperature or 1.0,
                top_p=top_p,
                generator=generator,
            )
            units = [torch.tensor(self.unit_language.decode_reduced(sequence.unit_words)) for sequence in sequences]
        with timed(timings, "vocoder_s"):
            waveforms = self._sound(units)
        spoken = []
        for sequence, waveform in zip(sequences, waveforms, strict=True):
            if not sequence.unit_words:
                spoken.append(Spoken(None, "the echo decoder gave no units"))
            elif waveform is None or not np.isfinite(waveform).all():
                spoken.append(Spoken(None, "the vocoder's waveform is empty or not finite"))
            elif not sequence.finished:
                spoken.append(Spoken(waveform, f"not finished after {len(sequence.unit_words)} unit words"))
            else:
                spoken.append(Spoken(waveform, None))
        return spoken

    def _sound(self, units: Sequence[Tensor]) -> list[np.ndarray | None]:
        """Waveform (S,) of each row of units; None where there is none."""
        rows = [row for row, sequence in enumerate(units) if len(sequence)]
        waveforms: list[np.ndarray | None] = [None] * len(units)
        if not rows:
            return waveforms
        batch = pad_sequence([units[row] for row in rows], batch_first=True, padding_value=-1).to(self.device)
        output = self.model.vocoder(batch)
        lengths = output.waveform_lengths.tolist()
        for row, waveform, length in zip(rows, output.waveform.float().cpu().numpy(), lengths, strict=True):
            waveforms[row] = waveform[: int(length)].copy() if length else None
        return waveforms

    # ------------------------------------------------------------------------------------------ words

    def opens_word(self, previous: int | None, token_id: int) -> bool:
        """Whether a segment may begin at this token: it begins a word, or is no text at all."""
        if previous is None:
            return True
        before, word = self._word_index([previous, token_id])
        return word == -1 or word != before

    def word_ids(self, token_ids: Sequence[int]) -> Tensor:
        """(R,) word of each token, counted from 0 in the segment; -1 where there is nothing to say."""
        found = self._word_index(token_ids)
        # White space belongs to the word that follows; at the end of a reply no word does.
        for index in range(len(found) - 1, -1, -1):
            if found[index] >= 0:
                if self.tokenizer.decode([token_ids[index]]).strip():
                    break
                found[index] = -1
        return torch.tensor(found)

    def _word_index(self, token_ids: Sequence[int]) -> list[int]:
        return word_index(self.tokenizer, token_ids)


@contextmanager
def timed(timings: Timings, part: str) -> Iterator[None]:
    """Add the time spent inside to one part of the timings."""
    began_s = time.perf_counter()
    try:
        yield
    finally:
        setattr(timings, part, getattr(timings, part) + time.perf_counter() - began_s)
