"""The engine: one model and its processor, without any state of a conversation. All sessions share it.

Its steps take several conversations at once: encode (audios to the frames that the language model reads, and their
transcripts), lay out (a conversation as positions of the prompt), embed (positions to inputs of the language model),
score and denoise (states of the language model, for the trigger and the echo decoder). `batch.py` decides which replies
take part in a step; `speech.py` follows the speech of one reply.

Letters: B conversations, n positions, K kept frames of an audio, H width of the language model, V its vocabulary.

Source: EchoX (arXiv 2509.09174), section on streaming inference.
"""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from echox.models.decoding.lean_adapter import LeanAdapter
from echox.models.decoding.lean_llama import LeanSteps, LeanWeights, fits_fused, is_plain
from echox.models.decoding.row_cache import DecoderRows, longest_row
from echox.models.decoding.static_llama import StaticSteps, compiled_step
from echox.models.echox.modeling_echox import EchoXForConditionalGeneration
from echox.models.echox.processing_echox import RECOGNISER_TOKENIZER_FILE, EchoXProcessor
from echox.models.quantization.low_bits import fast_head
from echox.models.text.retokenization import Retokenizer
from echox.models.text.tokenization_text import WordCounter, decode_text, period_id, word_index
from echox.models.turns.talk_head import talk_inputs
from echox.models.turns.turn_head import turn_inputs
from echox.models.unit_language.tokenization_unit_language import UnitLanguage
from echox.models.vocoder.modeling_unit_vocoder import UnitVocoder
from echox.streaming.events import HeardWord
from echox.streaming.prompt.chat_template import ChatTemplate
from echox.streaming.prompt.drafts import Drafts
from echox.streaming.prompt.messages import Audio, Message, UnreadableMessage
from echox.streaming.prompt.system_turns import MAX_BYTES, MAX_BYTES_ON_GPU, SystemTurns
from echox.streaming.reply_text.policies import Policy, make_policy
from echox.streaming.reply_text.settings import GenerationSettings
from echox.streaming.reply_text.trigger import Trigger
from echox.streaming.word_times import heard_words
from echox.tool_calls.call_format import find_format
from echox.tool_calls.call_grammar import CallConstraint, CallGrammars, grammars_available
from echox.tool_calls.tools import Tool, ToolUse
from echox.verbalization import SpokenLanguage, spoken_language

MAX_ENCODED_BYTES = 256 * 1024 * 1024
"""Size of the cache of encoded audios; an hour of speech at the width of the 8B model is about 100 MB."""

_TURN_STATES = 48
"""Of so many inputs of a question, its newest, a turn head has states: a bound of the time that they take."""

Position = int | tuple[str, int]
"""A position of a prompt by name: a token id, or the digest of an audio and the number of a frame."""


@dataclass(frozen=True, eq=False)
class EncodedAudio:
    """An encoded audio.

    Attributes:
        embeds: (K, H) inputs of the language model.
        text: the greedy transcript, of ``num_text_tokens`` tokens; "" if no word was recognised.
        digest: of the audio.
        words: the words of the transcript, with their times.
        begins_s: when each token of it begins in what the model hears, s.
    """

    embeds: Tensor
    text: str
    digest: str
    words: tuple[HeardWord, ...] = ()
    num_text_tokens: int = 0
    begins_s: tuple[float, ...] = ()


class Engine:
    """A model and all that does not change while it is used, and a cache of encoded audios.

    Args:
        model: the S2S model, in evaluation mode.
        processor: feature extractor, tokenizer and unit language.
        trigger: decides where segments end.
        compile: compile the steps that write text; on a GPU they become one graph. The first steps then take a minute.
        turn_head: the probability that a question is complete, by its `turn_inputs`; None: nothing judges it.
        talk_head: the probability that what a user says is talk, by `talk_inputs`; None: all is.
        adapters: of the language model, by kind of turn (`models.echox.conversation_adapters`); None: none.
        turn_states: the turn head reads states of the language model, and not its inputs.

    Raises:
        ValueError: parts that do not belong together, or a language model that cannot be compiled.
    """

    def __init__(
        self,
        model: EchoXForConditionalGeneration,
        processor: EchoXProcessor,
        trigger: Trigger,
        compile: bool = False,
        turn_head: Callable[[Tensor], float] | None = None,
        adapters: Mapping[str, LeanAdapter] | None = None,
        talk_head: Callable[[Tensor], float] | None = None,
        turn_states: bool = False,
    ) -> None:
        self.model = model
        self.processor = processor
        self.tokenizer: PreTrainedTokenizerBase = processor.tokenizer
        if model.s2t.config.audio_token_id is None:
            raise ValueError("s2t_config.audio_token_id: expected the placeholder of an audio, found none; set it")
        self._audio_token_id: int = model.s2t.config.audio_token_id
        audio_token = self.tokenizer.convert_ids_to_tokens(self._audio_token_id)
        self.chat_template = ChatTemplate(self.tokenizer, str(audio_token))
        self.control_tokens = self.chat_template.control_tokens
        self.trigger = trigger
        self.turn_head, self.talk_head, self.adapters = turn_head, talk_head, dict(adapters or {})
        self.turn_states = turn_states
        self.vocoder, self.unit_language = self._speech_parts()
        self._retokenizer = self._checked_retokenizer()
        self.device = next(model.parameters()).device
        self.input_sampling_rate = int(processor.feature_extractor.sampling_rate)
        self.output_sampling_rate = int(self.vocoder.sampling_rate)
        self._lm = model.s2t.language_model
        decoder = self._lm.base_model
        assert isinstance(decoder, PreTrainedModel), "the language model without its head"
        self._decoder = decoder
        self._head = self._lm.get_output_embeddings()
        self.eos_ids = self._eos_ids()
        self.longest_token = max(map(len, self.tokenizer.get_vocab()))
        self._period_row = self._head.weight[period_id(self.tokenizer)].detach().float()  # it scores sentence ends
        self._encoded: OrderedDict[str, EncodedAudio] = OrderedDict()
        self._encoded_bytes = 0
        self._drafts = Drafts()
        self._score = fast_head(self._lm)
        most = MAX_BYTES if self.device.type == "cpu" else MAX_BYTES_ON_GPU
        self.system_turns = SystemTurns(lambda messages, tools: self.lay_out(messages, {}, tools), most)
        self.max_positions = longest_row(self._lm.config.get_text_config())
        self.echo_weights = LeanWeights(model.echo_decoder.backbone)
        # Small Llamas lose more time around their matrix products than in them.
        self._lean_weights: LeanWeights | None = None
        if is_plain(decoder) and (compile or fits_fused(decoder)):
            self._lean_weights = LeanWeights(decoder, self.adapters)
        elif compile:
            raise ValueError("compile: expected a plain Llama as language model, found another kind; leave it out")
        if self._lean_weights is None and self.adapters:
            warnings.warn(
                f"adapters ({', '.join(self.adapters)}) are left out, since only a small plain Llama can have them "
                "beside its weights: replies will be worse than they could be",
                stacklevel=2,
            )
            self.adapters = {}
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

    def _checked_retokenizer(self) -> Retokenizer | None:
        found = self.processor.retokenizer
        if self.model.s2t.config.aligner == "recogniser" and found is None:
            raise ValueError(
                f"expected the recogniser's tokenizer beside the model, found none; copy {RECOGNISER_TOKENIZER_FILE} "
                "into its folder"
            )
        return found

    def _speech_parts(self) -> tuple[UnitVocoder, UnitLanguage]:
        vocoder, unit_language = self.model.vocoder, self.processor.unit_language
        words = self.model.config.echo_decoder_config.num_unit_words
        if vocoder is None:
            raise ValueError("expected a vocoder in the model, found none; put one into its folder (stage package)")
        if unit_language is None:
            raise ValueError(
                "expected a unit language beside the model, found none; copy unit_language.json into its folder"
            )
        if len(unit_language) != words:
            raise ValueError(
                f"unit language: expected {words} unit words (the echo decoder's), found {len(unit_language)}; "
                "use the unit_language.json that the echo decoder was trained with"
            )
        return vocoder, unit_language

    # ------------------------------------------------------------------------------------------ question

    def encode(self, audios: Sequence[Audio]) -> list[EncodedAudio]:
        """Encode the speech in audios, long ones window by window. Audios in the cache are not encoded again.

        The transcript is "" where no word was recognised.

        Raises:
            NoSpeech: one of them holds no speech.
        """
        keys = [audio.digest for audio in audios]
        new = {key: audio for key, audio in zip(keys, audios, strict=True) if key not in self._encoded}
        if new:
            drafts = [] if self._retokenizer is None else [self._drafts.of(audio) for audio in new.values()]
            states, transcripts = self.model.s2t.encode_and_transcribe(
                **self._features(list(new.values())), retokenizer=self._retokenizer, drafts=drafts
            )
            for audio, embeds, tokens in zip(new.values(), states, transcripts, strict=True):
                self._keep_encoded(audio, embeds, tokens)
        encoded = [self._encoded[key] for key in keys]
        for key in keys:
            self._encoded.move_to_end(key)
        while len(self._encoded) > 1 and self._encoded_bytes > MAX_ENCODED_BYTES:
            self._encoded_bytes -= self._encoded.popitem(last=False)[1].embeds.nbytes
        return encoded

    def encode_gradually(self, audios: Sequence[Audio]) -> Iterator[None]:
        """Encode audios in steps of bounded time and memory, however long they are; `encode` then finds them cached."""
        for audio in audios:
            if audio.digest not in self._encoded:
                inputs = self._features([audio])
                yield
                embeds, tokens = yield from self.model.s2t.encode_gradually(**inputs, retokenizer=self._retokenizer)
                self._keep_encoded(audio, embeds, tokens)

    def unencoded_s(self, audios: Sequence[Audio]) -> float:
        """Seconds of those audios that are not encoded yet."""
        return sum(audio.duration_s for audio in audios if audio.digest not in self._encoded)

    def _features(self, audios: Sequence[Audio]) -> dict[str, Tensor]:
        whole_windows = self.model.config.compatible.fixed_windows
        waveforms = [audio.for_model() for audio in audios]
        inputs = self.processor.extract_features(waveforms, self.input_sampling_rate, whole_windows)
        return {name: value.to(self.device) for name, value in inputs.items()}

    def _keep_encoded(self, audio: Audio, embeds: Tensor, tokens: Sequence[tuple[int, int, int]]) -> None:
        if audio.digest in self._encoded:  # another reply encoded it, while this one did so step by step
            return
        ids = [token_id for token_id, _, _ in tokens]
        text = decode_text(self.tokenizer, ids, skip_special_tokens=True).strip()
        text = text if any(character.isalnum() for character in text) else ""  # "." alone is no word
        aligner = self.model.s2t.aligner
        frame_s = 1.0 / aligner.transcript_frames_per_s
        assert (speech := audio.speech) is not None  # the first frame is where its margin begins
        begin_s = (speech.start - speech.lead) / audio.sampling_rate
        words = heard_words(self.tokenizer, tokens, frame_s, audio.duration_s, begin_s, aligner.token_reach_s)
        begins_s = tuple(first * frame_s for _, first, _ in tokens)
        self._encoded[audio.digest] = EncodedAudio(embeds.clone(), text, audio.digest, words, len(ids), begins_s)
        self._encoded_bytes += embeds.nbytes

    def forget(self, audios: Sequence[Audio]) -> None:
        """Take audios out of the cache: pieces of a recording that nobody asks for again."""
        for audio in audios:
            encoded = self._encoded.pop(audio.digest, None)
            if encoded is not None:
                self._encoded_bytes -= encoded.embeds.nbytes

    def clear_encoded(self) -> None:
        """Empty the cache of encoded audios, and of drafts."""
        self._encoded.clear()
        self._encoded_bytes = 0
        self._drafts.clear()

    def lay_out(
        self, messages: Sequence[Message], encoded: Mapping[str, EncodedAudio], tools: Sequence[Tool] = ()
    ) -> list[Position]:
        """A conversation as positions of the language model.

        Equal positions mean equal inputs, so the memory of an earlier turn can be continued.

        Args:
            messages: the conversation.
            encoded: its audios, by their digests.
            tools: that the model reads of.

        Raises:
            UnreadableMessage: text with a special token, which this tokenizer cannot read as text.
            ValueError: a tool with a special token.
        """
        for message in messages:
            self._check_text(message)
        for tool in tools:
            if (found := self.control_tokens.find(tool.written)) is not None:
                raise ValueError(f"tool {tool.name}: expected plain text, found the special token {found}; take it out")
        audios = iter([audio for message in messages for audio in message.audios])
        ids = self.chat_template.token_ids(messages, self.model.config.compatible.repeated_bos, tools)
        placeholders = ids.count(self._audio_token_id)
        expected = sum(len(message.audios) for message in messages)
        if placeholders != expected:
            raise ValueError(
                f"chat template: expected one placeholder for each of {expected} audios, found {placeholders}; set the "
                "tokenizer's chat_template to one that writes them"
            )
        positions: list[Position] = []
        for token_id in ids:
            if token_id != self._audio_token_id:
                positions.append(token_id)
                continue
            one = encoded[next(audios).digest]
            positions.extend((one.digest, frame) for frame in range(len(one.embeds)))
        return positions

    def _check_text(self, message: Message) -> None:
        for what, text in message.texts:
            if (found := self.control_tokens.find_unreadable(text)) is not None:
                error = f"{what}: expected plain text, found the special token {found}; take it out"
                raise UnreadableMessage(error, message, found)

    def embed(self, positions: Sequence[Position], encoded: Mapping[str, EncodedAudio]) -> Tensor:
        """(n, H) inputs of positions, given the encoded audios by their digests."""
        table = self._lm.get_input_embeddings()
        tokens = [one if isinstance(one, int) else 0 for one in positions]
        embeds: Tensor = table(torch.tensor(tokens, dtype=torch.long, device=self.device))
        frames = [(index, one) for index, one in enumerate(positions) if not isinstance(one, int)]
        if frames:  # all at once: on a GPU each assignment is a launch
            states = torch.stack([encoded[digest].embeds[frame] for _, (digest, frame) in frames])
            embeds[torch.tensor([index for index, _ in frames], device=self.device)] = states.to(embeds)
        return embeds

    def turn_inputs(self, embeds: Tensor, begins_s: Sequence[float]) -> Tensor | None:
        """What the turn head reads of a question: see `models.echox.turn_head.turn_inputs`.

        Args:
            embeds: (K, H) inputs of the language model for it.
            begins_s: when the token of each begins, s.
        """
        if not self.turn_states or len(begins_s) != len(embeds):
            return turn_inputs(embeds, begins_s)
        first = max(0, len(embeds) - _TURN_STATES)
        return turn_inputs(self.states_alone(embeds[first:]), begins_s[first:])

    @torch.no_grad()
    def states_alone(self, embeds: Tensor) -> Tensor:
        """(K, H) last states for inputs (K, H) of the language model that stand alone, in no conversation."""
        bos = self.tokenizer.bos_token_id
        begin = self.embed([] if bos is None else [bos], {})
        memory = self.new_memory(1)
        memory.join()
        return memory.advance(torch.cat([begin, embeds.to(begin)])[None])[0, len(begin) :]

    def is_talk(self, reply: str, said: Sequence[Tensor | str]) -> bool:
        """Whether what a user says is talk, and no question of knowledge; without a talk head everything is.

        Args:
            reply: the last one; "": there is none.
            said: its parts in order, as texts or as inputs (K, H) of the language model.
        """
        if self.talk_head is None:
            return True
        parts = [self.text_embeds(part) if isinstance(part, str) else part for part in said]
        newest = torch.cat([part.to(self.device, torch.float32) for part in parts])
        return not len(newest) or self.talk_head(talk_inputs(self.text_embeds(reply), newest)) >= 0.5

    @torch.no_grad()
    def text_embeds(self, text: str) -> Tensor:
        """(n, H) float32 inputs of a text alone."""
        return self.embed(self.tokenize(text), {}).float()

    # ------------------------------------------------------------------------------------------ tools

    @cached_property
    def call_grammars(self) -> CallGrammars | None:
        """Grammars of replies that call tools; None: the chat template knows no tools, or llguidance is missing."""
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        if backend is None or not grammars_available():
            return None
        repeat_bos = self.model.config.compatible.repeated_bos
        form = find_format(lambda messages, tools, begins: self.chat_template.text(messages, tools, begins, repeat_bos))
        if form is None:
            return None
        # Llama 3 may write it before a bare object.
        before = None if form.marker else self.tokenizer.get_vocab().get("<|python_tag|>")
        num_tokens = int(self._lm.config.get_text_config().vocab_size)
        return CallGrammars(backend, form, num_tokens, self.eos_ids, before)

    def read_adapters(self) -> None:
        """Read the conversation adapters now, and not for the first conversation that needs one.

        Raises:
            ValueError: one is damaged.
        """
        if self._lean_weights is not None:
            for kind in self.adapters:
                self._lean_weights.read_adapter(kind)

    def call_constraint(self, use: ToolUse) -> CallConstraint:
        """The constraint of a new reply; the first one for these tools takes up to a second.

        Raises:
            ValueError: this model calls no tools, or a schema cannot be followed.
        """
        if self.call_grammars is None:
            raise ValueError(
                "tools: expected a language model whose chat template knows tools, and llguidance (extra serve), found "
                "one of them missing; leave the tools out"
            )
        return self.call_grammars.constraint(use)

    # ------------------------------------------------------------------------------------------ text

    def new_memory(self, rows: int) -> LeanSteps | DecoderRows:
        """An empty memory of the language model, for this many rows; its `advance` runs positions."""
        if self._lean_weights is not None and self._step is not None:
            return StaticSteps(self._lean_weights, rows, step=self._step)
        if self._lean_weights is not None:
            return LeanSteps(self._lean_weights)
        return DecoderRows(self._decoder)

    def logits(self, states: Tensor) -> Tensor:
        """(B, V) scores of the tokens that states (B, H) predict."""
        return self._score(states)

    def scores(self, states: Tensor) -> list[float]:
        """Trigger score of each token: cos(the state (B, H) that predicts it, lm_head row of ".")."""
        scores: list[float] = torch.cosine_similarity(states.float(), self._period_row, dim=-1).tolist()
        return scores

    def word_counter(self) -> WordCounter:
        """A counter for one reply that gives the word of each of its tokens."""
        return WordCounter(self.tokenizer)

    # ------------------------------------------------------------------------------------------ speech

    def denoise(self, states: Tensor, token_ids: Tensor) -> Tensor:
        """(B, H) inputs of the echo decoder, from states (B, H) and the tokens (B,) that they predict."""
        denoised: Tensor = self.model.denoise(states[:, None].to(self.model.dtype), token_ids[:, None])
        return denoised[:, 0]

    def tokenize(self, text: str) -> list[int]:
        """Tokens of a text, none of them special.

        Raises:
            ValueError: it is written like one, and this tokenizer cannot read it otherwise.
        """
        return self.control_tokens.text_ids(text)

    def text_states(self, token_ids: Sequence[int]) -> Tensor:
        """(n, H) inputs of the echo decoder for given text: its embeddings, the targets of denoised states."""
        states: Tensor = self.model.text_embeddings(torch.tensor(token_ids, device=self.device))
        return states

    def language(self, settings: GenerationSettings) -> SpokenLanguage:
        """The rules that say figures, abbreviations and signs of a reply.

        Raises:
            ValueError: not a language code.
        """
        return spoken_language(settings.spoken_language or self.model.config.spoken_language)

    def tokenize_words(self, spoken: str, begins: bool) -> tuple[list[int], list[int]]:
        """Tokens of words to be spoken, and the word of each token, counted from 0.

        Args:
            spoken: words with single spaces between.
            begins: the reply begins with them; else a space precedes them.
        """
        ids = self.control_tokens.text_ids(spoken, follows=not begins)
        return ids, word_index(self.tokenizer, ids)

    def policy(self, settings: GenerationSettings) -> Policy:
        """The speech policy that the settings name, or the default of this model.

        Raises:
            ValueError: an unknown policy, or unknown numbers of a policy.
        """
        name = settings.speech_policy
        if name is None:
            incremental = self.model.config.echo_decoder_config.form == "word_synchronous"
            name = "word_by_word" if incremental else "semantic"
        return make_policy(name, self.trigger, **settings.policy_numbers)
