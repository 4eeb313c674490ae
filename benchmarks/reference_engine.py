"""The published method of streaming, implemented by us: what a reply costs when it is made as the reference makes it.

This is not the reference's code. It does the same steps with the same weights in the same process, so that a ratio
against it is fair. It differs from `echox.streaming` in these points:

* the audio encoder always runs over a window of 30 s;
* the prompt is scored at every position, though only the last one is needed;
* a segment is spoken when it is complete: at least 20 and at most 50 tokens, its peak found 5 tokens late;
* each segment's units come from transformers' own ``generate``, with a fresh cache and a copy of the embedding table
  for every unit;
* the vocoder gets whole segments; there is one session; text, units and audio are made one after the other.

Its replies are those of the engine for the same segments; a test checks that.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import DynamicCache, LlamaForCausalLM, LogitsProcessor, StoppingCriteria

from echox import EchoX
from echox.models.t2c.modeling_word_synchronous import WordSynchronousDecoder
from echox.models.t2c.text_words import TextWords
from echox.models.text.tokenization_text import word_index
from echox.streaming.reply_text.policies import REFERENCE_TRIGGER
from echox.streaming.reply_text.trigger import Segment

WINDOW_S = 30
PARTS = ("encode_s", "prefill_s", "text_s", "echo_s", "vocoder_s")


@dataclass
class ReferenceReply:
    """One reply; ``arrivals_s`` and ``waveforms`` of its segments, seconds in each of `PARTS`.

    The same parts up to the first sound are in ``first``; ``ttfa_cpu_s`` and ``total_cpu_s`` are processor time.
    """

    text: str = ""
    tokens: int = 0
    ttfa_tokens: int | None = None
    arrivals_s: list[float] = field(default_factory=list)
    waveforms: list[np.ndarray] = field(default_factory=list)
    total_s: float = 0.0
    ttfa_cpu_s: float = 0.0
    total_cpu_s: float = 0.0
    parts: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PARTS, 0.0))
    first: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Add the time spent inside to a part."""
        began_s = time.perf_counter()
        yield
        self.parts[part] += time.perf_counter() - began_s


class Reference:
    """A model that replies as the reference does.

    Args:
        model: with a word-synchronous echo decoder, as nano has.

    Raises:
        ValueError: another echo decoder.
    """

    def __init__(self, model: EchoX) -> None:
        if not isinstance(model.model.echo_decoder, WordSynchronousDecoder):
            raise ValueError(
                f"expected a word-synchronous echo decoder, found {type(model.model.echo_decoder).__name__}"
            )
        self.echox, self.model, self.processor = model, model.model, model.processor
        self.tokenizer = model.processor.tokenizer
        self.language_model = self.model.s2t.language_model
        period = self.tokenizer(".", add_special_tokens=False)["input_ids"][-1]
        self.period_row = self.language_model.get_output_embeddings().weight[period].detach().float()
        self.units = _UnitsByGenerate(self.model.echo_decoder)

    @torch.inference_mode()
    def reply(self, waveform: np.ndarray, max_new_tokens: int = 512) -> ReferenceReply:
        """Answer a question (samples,) at the model's rate."""
        reply = ReferenceReply()
        heard = self._encode(waveform)  # encoded at its true length; not timed, as the 30 s window below is
        rate = self.echox.sampling_rate
        window = np.pad(waveform, (0, max(0, WINDOW_S * rate - len(waveform))))
        began_s, began_cpu_s = time.perf_counter(), time.process_time()
        with reply.timed("encode_s"):
            self._encode(window)
        cache = DynamicCache()
        with reply.timed("prefill_s"):
            ids = self.tokenizer.apply_chat_template(
                [{"role": "user", "content": [{"type": "audio"}]}], add_generation_prompt=True, return_dict=True
            )["input_ids"]
            embeds, _, _ = self.model.s2t.splice(torch.tensor([ids]), audio_embeds=heard)
            output = self._advance(cache, inputs_embeds=embeds)
        trigger = REFERENCE_TRIGGER.state()
        token_ids: list[int] = []
        states: list[Tensor] = []
        while len(token_ids) < max_new_tokens:
            with reply.timed("text_s"):
                token_id = int(output.logits[0, -1].argmax())
                if token_id == self.tokenizer.eos_token_id:
                    break
                states.append(output.hidden_states[-1][0, -1])
                token_ids.append(token_id)
                score = float(torch.cosine_similarity(states[-1].float(), self.period_row, dim=0))
                before, word = word_index(self.tokenizer, [0, *token_ids][-2:])
                segment = trigger.push(score, len(token_ids) == 1 or word == -1 or word != before)
            if segment is not None:
                self._synthesize(reply, segment, token_ids, states, began_s)
            with reply.timed("text_s"):
                output = self._advance(cache, input_ids=torch.tensor([[token_id]]))
        last = trigger.flush()
        if last is not None:
            self._synthesize(reply, last, token_ids, states, began_s)
        reply.total_s = time.perf_counter() - began_s
        reply.total_cpu_s = time.process_time() - began_cpu_s
        reply.ttfa_cpu_s -= began_cpu_s
        reply.tokens = len(token_ids)
        reply.text = self.tokenizer.decode(token_ids, skip_special_tokens=True)
        return reply

    def _encode(self, waveform: np.ndarray) -> list[Tensor]:
        inputs = self.processor.extract_features([waveform], self.echox.sampling_rate)
        return self.model.s2t.encode(**inputs)[0]

    def _advance(self, cache: DynamicCache, **inputs: Tensor):
        return self.language_model(**inputs, past_key_values=cache, use_cache=True, output_hidden_states=True)

    def _synthesize(
        self, reply: ReferenceReply, segment: Segment, token_ids: list[int], states: list[Tensor], began_s: float
    ) -> None:
        with reply.timed("echo_s"):
            ids = token_ids[segment.start : segment.end]
            words = torch.tensor([word_index(self.tokenizer, ids)])
            denoised = self.model.denoise(torch.stack(states[segment.start : segment.end])[None], torch.tensor([ids]))
            unit_words = self.units.generate_units(denoised, words)
            units = self.processor.unit_language.decode_reduced(unit_words)
        if not units:
            return
        with reply.timed("vocoder_s"):
            waveform = self.model.vocoder(torch.tensor([units])).waveform[0].numpy()
        reply.waveforms.append(waveform)
        reply.arrivals_s.append(time.perf_counter() - began_s)
        if reply.ttfa_tokens is None:
            reply.ttfa_tokens, reply.first = len(token_ids), dict(reply.parts)
            reply.ttfa_cpu_s = time.process_time()


class _UnitsByGenerate(LlamaForCausalLM):
    """The word-synchronous echo decoder's weights, run by transformers' own ``generate``."""

    def __init__(self, decoder: WordSynchronousDecoder) -> None:
        super().__init__(decoder.backbone.config)
        self.decoder = [decoder]  # a list: its weights are not registered twice
        self.model, self.lm_head = decoder.backbone, decoder.unit_head
        self.conditions: Tensor | None = None
        self.ends = 0
        self.eval()

    def forward(self, input_ids: Tensor, **inputs):
        table = self.model.embed_tokens.weight.clone()
        assert self.conditions is not None
        condition = self.conditions[:, min(self.ends, self.conditions.shape[1] - 1)]
        return super().forward(inputs_embeds=F.embedding(input_ids, table) + condition, **inputs)

    def generate_units(self, states: Tensor, word_ids: Tensor) -> list[int]:
        """Unit words of one segment: denoised states (1, R, H), words (1, R)."""
        decoder = self.decoder[0]
        words = TextWords.of(word_ids)
        count = int(words.counts[0])
        if not count:
            return []
        self.conditions, self.ends = decoder.conditions(decoder.word_vectors(states, words)), 0
        rules = _Rules(self, count)
        outputs = self.generate(
            input_ids=torch.tensor([[decoder.end_id]]),
            attention_mask=torch.ones(1, 1, dtype=torch.long),
            max_new_tokens=decoder.config.max_unit_words + count,
            do_sample=False,
            pad_token_id=decoder.end_id,
            logits_processor=[rules],
            stopping_criteria=[rules.done],
        )
        return [output for output in outputs[0, 1:].tolist() if output != decoder.end_id]


class _Rules(LogitsProcessor):
    """Each word has at least one unit and at most as many as the model allows; the last word's end ends the segment."""

    def __init__(self, units: _UnitsByGenerate, count: int) -> None:
        self.units, self.count = units, count
        self.config, self.end = units.decoder[0].config, units.decoder[0].end_id

        class Done(StoppingCriteria):
            def __call__(_self, input_ids: Tensor, scores: Tensor, **_: object) -> Tensor:
                units.ends = int((input_ids[0, 1:] == self.end).sum())
                return torch.tensor([units.ends >= count])

        self.done = Done()

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        outputs = input_ids[0].tolist()
        in_word = len(outputs) - 1 - max(place for place, output in enumerate(outputs) if output == self.end)
        if self.config.force_sound and in_word == 0:
            scores[:, self.end] = -torch.inf
        if in_word >= self.config.max_unit_words_per_word:
            scores[:] = -torch.inf
            scores[:, self.end] = 0.0
        return scores
