"""The engine: one model and its processor, without any state of a conversation. All sessions share it.

Its steps take several conversations at once: hear (audios to the frames that the language model reads, and their
transcripts), lay out (a conversation as positions), write (inputs into the language model's memory), denoise (what was
written, for the mouth). Who takes part in which step is the scheduler's business; speech is `speech.py`'s.

Letters: B conversations, n positions, K kept frames of an audio, H width of the language model, V its vocabulary.

Source: EchoX (arXiv 2509.09174), section on streaming inference.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from echox.models.decoding.lean_llama import LeanSteps, LeanWeights, fits_fused, is_plain
from echox.models.decoding.row_cache import DecoderRows
from echox.models.decoding.static_llama import StaticSteps, compiled_step
from echox.models.echox.tokenization_text import WordCounter, word_index
from echox.streaming.chat_template import ChatTemplate
from echox.streaming.decoding import GenerationSettings
from echox.streaming.events import HeardWord
from echox.streaming.messages import Audio, Message
from echox.streaming.policies import Policy, make_policy
from echox.streaming.trigger import Trigger
from echox.streaming.word_times import heard_words
from echox.verbalization import SpokenLanguage, spoken_language

HEARD_BYTES = 256 * 1024 * 1024
"""What the cache of encoded audios may hold; an hour of speech at 8B's width is about 100 MB."""


CTC_FRAME_HOPS = 4
"""Frames of the log-mel in one of CTC: the speech encoder halves their number, and the alignment adapter again."""


@dataclass(frozen=True, eq=False)
class HeardAudio:
    """An encoded audio: ``embeds`` (K, H), the greedy transcript, the name of its sound, and its words with times."""

    embeds: Tensor
    text: str
    key: str
    words: tuple[HeardWord, ...] = ()


class Engine:
    """Everything of a model that does not change while it talks, and the memory of audios it has heard.

    Args:
        model: the S2S model, in evaluation mode.
        processor: feature extractor, tokenizer and unit language.
        trigger: the segment decision.
        compile: compile the steps that write text; on a GPU they become one graph. The first steps then take a minute.

    Raises:
        ValueError: parts that do not belong together, or a language model that cannot be compiled.
    """

    def __init__(self, model: Any, processor: Any, trigger: Trigger, compile: bool = False) -> None:
        self.model = model
        self.processor = processor
        self.tokenizer = processor.tokenizer
        audio_token = self.tokenizer.convert_ids_to_tokens(model.s2t.config.audio_token_id)
        self.chat_template = ChatTemplate(self.tokenizer, str(audio_token))
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
        self.longest_token = max(map(len, self.tokenizer.get_vocab()))
        self._control_tokens = [str(token) for token in self.tokenizer.added_tokens_decoder.values() if token.special]
        # The row that scores sentence ends: the last token of "." as the tokenizer writes it alone.
        period = self.tokenizer(".", add_special_tokens=False)["input_ids"][-1]
        self._period_row = self._head.weight[period].detach().float()
        self._heard: OrderedDict[str, HeardAudio] = OrderedDict()
        self._heard_bytes = 0
        self.max_positions = int(getattr(self._lm.config.get_text_config(), "max_position_embeddings", 0)) or None
        self.echo_weights = LeanWeights(model.echo_decoder.backbone)
        # Small Llamas lose more time around their matrix products than in them.
        lean = is_plain(self._decoder) and (compile or fits_fused(self._decoder))
        if compile and not lean:
            raise ValueError("compile: expected a plain Llama as language model, found another kind; leave it out")
        self._lean_weights = LeanWeights(self._decoder) if lean else None
        self._step = compiled_step(self._lean_weights) if compile and self._lean_weights is not None else None

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

    def hear(self, audios: Sequence[Audio]) -> list[HeardAudio]:
        """Encode the speech in audios, window by window where it is long. What was heard before is not encoded again.

        The transcript is "" where no word was heard.

        Raises:
            NoSpeech: one of them holds none.
        """
        keys = [audio.digest for audio in audios]
        new = {key: audio for key, audio in zip(keys, audios, strict=True) if key not in self._heard}
        if new:
            states, transcripts = self.model.s2t.encode_and_transcribe(**self._features(list(new.values())))
            for audio, embeds, tokens in zip(new.values(), states, transcripts, strict=True):
                self._keep_heard(audio, embeds, tokens)
        heard = [self._heard[key] for key in keys]
        for key in keys:
            self._heard.move_to_end(key)
        while len(self._heard) > 1 and self._heard_bytes > HEARD_BYTES:
            self._heard_bytes -= self._heard.popitem(last=False)[1].embeds.nbytes
        return heard

    def hear_gradually(self, audios: Sequence[Audio]) -> Iterator[None]:
        """Encode audios in steps of bounded time and memory, however long they are; `hear` then knows them."""
        for audio in audios:
            if audio.digest not in self._heard:
                inputs = self._features([audio])
                yield
                embeds, tokens = yield from self.model.s2t.encode_gradually(**inputs)
                self._keep_heard(audio, embeds, tokens)

    def unheard_s(self, audios: Sequence[Audio]) -> float:
        """Seconds of those audios that are not encoded yet."""
        return sum(audio.duration_s for audio in audios if audio.digest not in self._heard)

    def _features(self, audios: Sequence[Audio]) -> dict[str, Tensor]:
        whole_windows = self.model.config.compatible.fixed_windows
        waveforms = [audio.for_model() for audio in audios]
        inputs = self.processor.extract_features(waveforms, self.input_sampling_rate, whole_windows)
        return {name: value.to(self.device) for name, value in inputs.items()}

    def _keep_heard(self, audio: Audio, embeds: Tensor, tokens: Sequence[tuple[int, int, int]]) -> None:
        if audio.digest in self._heard:  # for another reply, while this one heard it step by step
            return
        text = self.tokenizer.decode([token_id for token_id, _, _ in tokens], skip_special_tokens=True).strip()
        text = text if any(character.isalnum() for character in text) else ""  # "." alone is no word
        frame_s = CTC_FRAME_HOPS * self.processor.feature_extractor.hop_length / self.input_sampling_rate
        assert (speech := audio.speech) is not None  # the first frame is where its margin begins
        begin_s = (speech.start - speech.lead) / audio.sampling_rate
        words = heard_words(self.tokenizer, tokens, frame_s, audio.duration_s, begin_s)
        self._heard[audio.digest] = HeardAudio(embeds.clone(), text, audio.digest, words)
        self._heard_bytes += embeds.nbytes

    def forget_audios(self) -> None:
        """Encode every audio anew from now on."""
        self._heard.clear()
        self._heard_bytes = 0

    def lay_out(self, messages: Sequence[Message], heard: dict[Audio, HeardAudio]) -> list[Any]:
        """A conversation as positions of the language model, each by a hashable name: a token id, or (audio, frame).

        Equal names mean equal inputs, so the memory of an earlier turn can be continued.

        Raises:
            ValueError: text that holds special tokens (it could pose as another turn).
        """
        for message in messages:
            self._check_text(message)
        audios = iter([audio for message in messages for audio in message.audios])
        ids = self.chat_template.token_ids(
            [message.for_template() for message in messages], repeat_bos=self.model.config.compatible.repeated_bos
        )
        audio_token_id = self.model.s2t.config.audio_token_id  # a configuration takes its time to answer
        placeholders = ids.count(audio_token_id)
        expected = sum(len(message.audios) for message in messages)
        if placeholders != expected:
            raise ValueError(
                f"chat template: expected one placeholder for each of {expected} audios, found {placeholders}; set the "
                "tokenizer's chat_template to one that writes them"
            )
        keys: list[Any] = []
        for token_id in ids:
            if token_id != audio_token_id:
                keys.append(token_id)
                continue
            one = heard[next(audios)]
            keys.extend((one.key, frame) for frame in range(len(one.embeds)))
        return keys

    def _check_text(self, message: Message) -> None:
        # Parts with nothing between them are one text for the template: a token must not hide on their border.
        groups = groupby(message.parts, lambda part: isinstance(part, str))
        for text in ("".join(map(str, parts)) for is_text, parts in groups if is_text):
            found = [token for token in self._control_tokens if token in text]
            if found:
                raise ValueError(
                    f"{message.role} message: expected plain text, found the special token {found[0]}; take it out"
                )

    def embed(self, keys: Sequence[Any], heard: dict[str, HeardAudio]) -> Tensor:
        """(n, H) inputs of named positions, given what was heard by name of the sound."""
        table = self._lm.get_input_embeddings()
        tokens = [key if isinstance(key, int) else 0 for key in keys]
        embeds = table(torch.tensor(tokens, device=self.device))
        places = [place for place, key in enumerate(keys) if not isinstance(key, int)]
        if places:  # all at once: on a GPU each assignment is a launch
            frames = [heard[keys[place][0]].embeds[keys[place][1]] for place in places]
            embeds[torch.tensor(places, device=self.device)] = torch.stack(frames).to(embeds)
        return embeds

    # ------------------------------------------------------------------------------------------ text

    def new_memory(self, rows: int) -> LeanSteps | DecoderRows:
        """An empty memory of the language model for so many rows, with their `advance`."""
        if self._lean_weights is not None and self._step is not None:
            return StaticSteps(self._lean_weights, rows, step=self._step)
        if self._lean_weights is not None:
            return LeanSteps(self._lean_weights)
        return DecoderRows(self._decoder)

    def logits(self, states: Tensor) -> Tensor:
        """(B, V) scores of the tokens that states (B, H) predict."""
        return self._head(states)

    def scores(self, states: Tensor) -> list[float]:
        """Trigger score of each token: cos(the state (B, H) that predicts it, lm_head row of ".")."""
        return torch.cosine_similarity(states.float(), self._period_row, dim=-1).tolist()

    def word_counter(self) -> WordCounter:
        """For one reply: which word each of its tokens belongs to."""
        return WordCounter(self.tokenizer)

    # ------------------------------------------------------------------------------------------ speech

    def denoise(self, states: Tensor, token_ids: Tensor) -> Tensor:
        """(B, H) what the echo decoder reads, of states (B, H) and the tokens (B,) that they predict."""
        return self.model.denoise(states[:, None].to(self.model.dtype), token_ids[:, None])[:, 0]

    def meant(self, token_ids: Sequence[int]) -> Tensor:
        """(n, H) what the echo decoder reads for given text: its embeddings, which denoised states learn to be."""
        return self.model.text_embeddings(torch.tensor(token_ids, device=self.device))

    def language(self, settings: GenerationSettings) -> SpokenLanguage:
        """How figures, abbreviations and signs of a reply are said.

        Raises:
            ValueError: not a language code.
        """
        return spoken_language(settings.spoken_language or self.model.config.spoken_language)

    def tokens_of(self, spoken: str, begins: bool) -> tuple[list[int], list[int]]:
        """Tokens of words to be said, and the word of each from 0.

        Args:
            spoken: words with single spaces between.
            begins: the reply begins with them; else a space comes before them.
        """
        ids = list(self.tokenizer(spoken if begins else f" {spoken}", add_special_tokens=False)["input_ids"])
        return ids, word_index(self.tokenizer, ids)

    def policy(self, settings: GenerationSettings) -> Policy:
        """Who decides when which part of a reply is spoken.

        Raises:
            ValueError: an unknown policy, or unknown numbers of one.
        """
        name = settings.speech_policy
        if name is None:
            incremental = self.model.config.echo_decoder_config.form == "word_synchronous"
            name = "word_by_word" if incremental else "semantic"
        return make_policy(name, self.trigger, **settings.policy_numbers)
