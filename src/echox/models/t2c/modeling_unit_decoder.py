"""Unit decoders, from text embeddings or hidden states to unit words.

Two forms behind one interface: `WordSynchronousDecoder` and `PrefixDecoder` (the paper's); `modeling_t2c.py` chooses
by configuration. The echo decoder of `modeling_echox.py` is the same class, fed with denoised hidden states.

Letters: B rows, R states of a row, W text words, U unit words, T steps, H width of the states, D width of the decoder.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import LlamaModel
from transformers import initialization as init
from transformers.utils import ModelOutput

from echox.models.decoding.lean_llama import LeanSteps
from echox.models.decoding.sampling import choose
from echox.models.pretrained import TypedPreTrainedModel
from echox.models.t2c.configuration_t2c import UnitDecoderConfig
from echox.models.t2c.text_words import TextWords

IGNORED = -100


@dataclass
class UnitDecoderOutput(ModelOutput):
    """Teacher-forced outputs.

    Attributes:
        loss: mean cross-entropy of the targets (nats); None without unit words.
        logits: (B, T, num_unit_words + 1).
        targets: (B, T) what each step should say, ends included; -100 where nothing.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    targets: Tensor | None = None


@dataclass
class UnitSequence:
    """What a decoder said for one row.

    Attributes:
        unit_words: ids in the unit language.
        word_of: the text word (an id of `word_ids`) that each unit word belongs to.
        finished: False when the limit of unit words was reached first.
        aligned: False when `word_of` is only an estimate by proportion (prefix form, which does not know).
    """

    unit_words: list[int]
    word_of: list[int]
    finished: bool
    aligned: bool = True


class UnitDecoder(TypedPreTrainedModel):
    """A small Llama over unit words, conditioned on states; subclasses say how.

    Args:
        config: sizes and form.
    """

    config: UnitDecoderConfig
    config_class = UnitDecoderConfig
    base_model_prefix = "decoder"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    reads_silent_tokens = False
    """Whether states of tokens that nobody says (special ones, white space at the end) enter too."""

    def __init__(self, config: UnitDecoderConfig) -> None:
        super().__init__(config)
        self.backbone = LlamaModel(config.backbone_config())
        init.normal_(self.backbone.embed_tokens.weight, std=config.embedding_std)
        self.unit_head = nn.Linear(config.hidden_size, config.num_unit_words + 1, bias=False)
        self.dropout = nn.Dropout(config.dropout)

    @property
    def end_id(self) -> int:
        """The output that ends a word (word-synchronous) or the sequence (prefix)."""
        return self.config.end_id

    def embed_outputs(self, outputs: Tensor) -> Tensor:
        """(B, D) input vectors of what was said, from output ids (B,)."""
        return F.embedding(outputs, self.backbone.embed_tokens.weight)

    def output_logits(self, hidden: Tensor) -> Tensor:
        """(B, O) scores of all outputs from last hidden states (B, D)."""
        return F.linear(hidden, self.unit_head.weight)

    def unit_word_of_output(self, output: int) -> int | None:
        """The unit word that an output stands for; None where it stands for none."""
        return output

    def forward(self, states: Tensor, word_ids: Tensor, unit_words: Tensor, unit_word_of: Tensor) -> UnitDecoderOutput:
        """Teacher forcing in one pass.

        Args:
            states: (B, R, H) text embeddings or denoised hidden states.
            word_ids: (B, R) text word of each state, never falling; -1 = padding, or not spoken.
            unit_words: (B, U) what was said, padded with -100.
            unit_word_of: (B, U) text word of each unit word, as in `word_ids`, never falling.

        Raises:
            ValueError: shapes that do not belong together, or word ids that fall or are missing.
        """
        raise TypeError(f"{type(self).__name__} is the interface: use build_unit_decoder(config)")

    def num_targets(self, word_ids: Tensor, unit_words: Tensor) -> Tensor:
        """Number of the targets that `forward` makes of these, ends included; a scalar."""
        raise TypeError(f"{type(self).__name__} is the interface: use build_unit_decoder(config)")

    def generate(
        self,
        states: Tensor,
        word_ids: Tensor,
        do_sample: bool = False,
        temperature: float = 1.0,
        top_p: float = 1.0,
        generator: torch.Generator | None = None,
        max_unit_words: int | None = None,
    ) -> list[UnitSequence]:
        """Say every row, all rows in step, with a key-value memory; greedy, or sampled with `generator`.

        Args:
            states: (B, R, H), as in `forward`.
            word_ids: (B, R), as in `forward`.
            do_sample: sample instead of taking the most likely.
            temperature: of the samples.
            top_p: the samples come from the nucleus of this probability mass.
            generator: source of randomness.
            max_unit_words: limit per row (None: the configuration's).
        """
        raise TypeError(f"{type(self).__name__} is the interface: use build_unit_decoder(config)")

    def _check(self, states: Tensor, word_ids: Tensor) -> None:
        width = self.config.text_hidden_size
        if states.ndim != 3 or states.shape[2] != width or states.shape[:2] != word_ids.shape:
            raise ValueError(
                f"expected states (rows, states, {width}) and word_ids (rows, states), found "
                f"{tuple(states.shape)} and {tuple(word_ids.shape)}"
            )

    def _scaled(self, states: Tensor) -> Tensor:
        if not self.config.normalize_states:
            return states
        return F.rms_norm(states.float(), states.shape[-1:], eps=1e-12).to(states.dtype)

    def _noisy(self, unit_words: Tensor) -> Tensor:
        """Inputs with a few unit words replaced by random ones (training only), so that errors are survived."""
        if not self.training or self.config.unit_noise <= 0:
            return unit_words
        replaced = torch.rand(unit_words.shape, device=unit_words.device) < self.config.unit_noise
        random_words = torch.randint_like(unit_words, self.config.num_unit_words)
        return torch.where(replaced & (unit_words != self.end_id), random_words, unit_words)

    def _nothing(self, states: Tensor) -> UnitDecoderOutput:
        """Output of a batch without rows: a loss of 0 that every parameter takes part in."""
        logits = states.new_zeros(0, 0, self.config.num_unit_words + 1)
        zero = states.sum() * 0 + sum((value.sum() * 0 for value in self.parameters()), start=states.new_zeros(()))
        return UnitDecoderOutput(loss=zero, logits=logits, targets=logits.new_zeros(0, 0, dtype=torch.long))

    def _output(self, hidden: Tensor, targets: Tensor) -> UnitDecoderOutput:
        logits = self.unit_head(self.dropout(hidden))
        total = F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="sum")
        loss = total / (targets != IGNORED).sum().clamp(min=1)
        return UnitDecoderOutput(loss=loss, logits=logits, targets=targets)


class WordSynchronousDecoder(UnitDecoder):
    """Speaks word by word: each step knows the text word at hand, its neighbours and the previous unit word.

    A word's vector pools its tokens' states. Input of a step: embedding of the previous output + vector of the
    current word + linear maps of the vectors around it. The end output moves on to the next word; after the last
    word's, the row is done.

    Ours, no paper's; compared with the paper's form in docs/ablations.md, row e.
    """

    def __init__(self, config: UnitDecoderConfig) -> None:
        super().__init__(config)
        width = config.hidden_size

        def neighbours(count: int) -> nn.ModuleList:
            return nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(count))

        self.token_projection = nn.Linear(config.text_hidden_size, width)
        self.place_embedding = nn.Embedding(config.max_word_tokens, width)
        self.word_projection = nn.Linear(width, width)
        self.word_norm = nn.RMSNorm(width, eps=config.rms_norm_eps)
        self.next_projections = neighbours(config.lookahead_words)
        self.previous_projections = neighbours(config.lookback_words)
        self.post_init()

    def word_vectors(self, states: Tensor, words: TextWords) -> Tensor:
        """(B, W, D) one vector per text word, zero beyond the last word of a row."""
        place = words.place.clamp(max=self.config.max_word_tokens - 1)
        tokens = F.gelu(self.token_projection(self._scaled(states)) + self.place_embedding(place))
        numbers = torch.arange(words.names.shape[1], device=states.device)
        belongs = (words.local.unsqueeze(1) == numbers[:, None]).to(tokens.dtype)  # (B, W, R)
        pooled = (belongs / belongs.sum(2, keepdim=True).clamp(min=1)) @ tokens
        # Under autocast the projection is in half precision and the norm's weight is not.
        vectors = self.word_norm(self.word_projection(pooled).to(self.word_norm.weight.dtype))
        return vectors * (words.names >= 0).unsqueeze(2)

    def conditions(self, vectors: Tensor) -> Tensor:
        """(B, W, D) what every step of a word is told: its own vector and its neighbours'."""
        total = vectors
        for distance, projection in enumerate(self.next_projections, 1):
            total = total + projection(F.pad(vectors[:, distance:], (0, 0, 0, min(distance, vectors.shape[1]))))
        for distance, projection in enumerate(self.previous_projections, 1):
            total = total + projection(F.pad(vectors, (0, 0, distance, 0))[:, : vectors.shape[1]])
        return total

    def layout(self, words: TextWords, unit_words: Tensor, unit_word_of: Tensor) -> tuple[Tensor, Tensor]:
        """Targets (B, T) with an end after every word and -100 as padding; the word number (B, T) of every step."""
        real = unit_words != IGNORED
        number = words.number(unit_word_of, real)
        rows, size = unit_words.shape
        width = words.names.shape[1]
        ends = torch.arange(width, device=unit_words.device).expand(rows, width)
        sizes = torch.zeros_like(ends).scatter_add(1, number, real.long())
        end_steps = sizes.cumsum(1) + ends
        exists = words.names >= 0
        steps = size + width
        targets = unit_words.new_full((rows, steps + 1), IGNORED)  # the last column takes what is padding
        word_of_step = torch.zeros_like(targets)
        unit_steps = (torch.arange(size, device=unit_words.device) + number).masked_fill(~real, steps)
        end_steps = end_steps.masked_fill(~exists, steps)
        targets.scatter_(1, unit_steps, unit_words).scatter_(1, end_steps, self.end_id)
        word_of_step.scatter_(1, unit_steps, number).scatter_(1, end_steps, ends)
        used = int((sizes.sum(1) + words.counts).max())
        targets[:, steps] = IGNORED
        return targets[:, :used], word_of_step[:, :used]

    def num_targets(self, word_ids: Tensor, unit_words: Tensor) -> Tensor:
        """Unit words, and an end for every word."""
        return (unit_words != IGNORED).sum() + TextWords.of(word_ids).counts.sum()

    def forward(self, states: Tensor, word_ids: Tensor, unit_words: Tensor, unit_word_of: Tensor) -> UnitDecoderOutput:
        """See `UnitDecoder.forward`."""
        self._check(states, word_ids)
        if not len(states):
            return self._nothing(states)
        words = TextWords.of(word_ids)
        targets, word_of_step = self.layout(words, unit_words, unit_word_of)
        said = torch.where(targets == IGNORED, self.end_id, targets)
        previous = self._noisy(F.pad(said, (1, 0), value=self.end_id)[:, :-1])
        conditions = self.conditions(self.word_vectors(states, words))
        told = conditions.gather(1, word_of_step.unsqueeze(2).expand(-1, -1, conditions.shape[2]))
        # Padding is on the right and attention looks back: no mask is needed.
        inputs = self.dropout(self.backbone.embed_tokens(previous) + told)
        return self._output(self.backbone(inputs_embeds=inputs, use_cache=False).last_hidden_state, targets)

    @torch.no_grad()
    def generate(
        self,
        states: Tensor,
        word_ids: Tensor,
        do_sample: bool = False,
        temperature: float = 1.0,
        top_p: float = 1.0,
        generator: torch.Generator | None = None,
        max_unit_words: int | None = None,
    ) -> list[UnitSequence]:
        """See `UnitDecoder.generate`. Rows that have spoken their last word leave the batch."""
        self._check(states, word_ids)
        if not len(states):
            return []
        config, words = self.config, TextWords.of(word_ids)
        limit = max_unit_words or config.max_unit_words
        embedding, head, end = self.backbone.embed_tokens.weight, self.unit_head.weight, self.end_id
        with torch.autocast(states.device.type, enabled=False):
            told = self.conditions(self.word_vectors(states.to(embedding.dtype), words))
            width, flat = told.shape[1], told.flatten(0, 1)
            active = (words.counts > 0).nonzero().squeeze(1)
            counts, base = words.counts[active], active * width
            pointer, in_word = torch.zeros_like(active), torch.zeros_like(active)
            previous = torch.full_like(active, end)
            said: list[tuple[Tensor, Tensor]] = []
            steps = LeanSteps(self.backbone, len(active), capacity=64 + 4 * width)
            while len(active) and len(said) < limit + width:
                inputs = embedding[previous] + flat[base + pointer.clamp(max=width - 1)]
                logits = F.linear(steps.advance(inputs.unsqueeze(1)).squeeze(1), head)
                if config.force_sound:
                    logits[:, end].masked_fill_(in_word == 0, -torch.inf)
                previous = choose(logits, do_sample, temperature, top_p, generator)
                previous = previous.masked_fill(in_word >= config.max_unit_words_per_word, end)
                said.append((active, previous))
                ended = previous == end
                pointer = pointer + ended
                in_word = (in_word + 1).masked_fill(ended, 0)
                done = pointer >= counts
                finished_rows = int(done.sum())
                if finished_rows == len(active):
                    break
                if 2 * finished_rows >= len(active):
                    rows = (~done).nonzero().squeeze(1)
                    steps.keep_rows(rows)
                    active, counts, base, pointer, in_word, previous = (
                        value[rows] for value in (active, counts, base, pointer, in_word, previous)
                    )
        return self._collect(said, words, limit)

    def _collect(self, said: list[tuple[Tensor, Tensor]], words: TextWords, limit: int) -> list[UnitSequence]:
        names = words.names.tolist()
        counts = words.counts.tolist()
        sequences = [UnitSequence([], [], finished=count == 0) for count in counts]
        pointers = [0] * len(counts)
        cut = [False] * len(counts)  # said more than the limit: never finished, however long the others went on
        if not said:
            return sequences
        rows, outputs = (torch.cat(parts).tolist() for parts in zip(*said, strict=True))
        for row, output in zip(rows, outputs, strict=True):
            sequence = sequences[row]
            if sequence.finished or cut[row]:
                continue
            if output == self.end_id:
                pointers[row] += 1
                sequence.finished = pointers[row] == counts[row]
            elif len(sequence.unit_words) >= limit:
                cut[row] = True
            else:
                sequence.unit_words.append(output)
                sequence.word_of.append(names[row][pointers[row]])
        return sequences


class PrefixDecoder(UnitDecoder):
    """The paper's form: ``[prefix] [states] [separator] unit words end``, the states through one Linear.

    Only spoken states (``word_ids >= 0``) enter. `UnitSequence.word_of` is an estimate by proportion: this form
    does not know.

    Source: EchoX (arXiv 2509.09174, section 3.2).
    """

    def __init__(self, config: UnitDecoderConfig) -> None:
        super().__init__(config)
        self.state_projection = nn.Linear(config.text_hidden_size, config.hidden_size)
        self.prefix = nn.Parameter(torch.empty(config.num_prefix_vectors, config.hidden_size))
        self.separator = nn.Parameter(torch.empty(config.num_separator_vectors, config.hidden_size))
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, PrefixDecoder):
            init.normal_(module.prefix, std=module.config.embedding_std)
            init.normal_(module.separator, std=module.config.embedding_std)

    def prompt(self, states: Tensor, word_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Prompt vectors (B, P, D), padded on the left, and their mask (B, P): True where real."""
        spoken = word_ids >= 0
        counts = spoken.sum(1)
        length = max(1, int(counts.max()))
        # What is not spoken goes left, the rest keeps its order.
        order = spoken.long().argsort(dim=1, stable=True)[:, -length:]
        chosen = states.gather(1, order.unsqueeze(2).expand(-1, -1, states.shape[2]))
        real = spoken.gather(1, order)
        rows = len(states)
        # The fixed prefix must touch the first real state, also in padded rows: roll it in after the padding.
        prefix = self.prefix.expand(rows, -1, -1)
        body = torch.cat([prefix, self.state_projection(self._scaled(chosen))], 1)
        mask = torch.cat([real.new_ones(rows, prefix.shape[1]), real], 1)
        if prefix.shape[1]:
            order = mask.long().argsort(dim=1, stable=True)
            body = body.gather(1, order.unsqueeze(2).expand_as(body))
            mask = mask.gather(1, order)
        separator = self.separator.expand(rows, -1, -1)
        ones = mask.new_ones(rows, separator.shape[1])
        return torch.cat([body, separator.to(body.dtype)], 1), torch.cat([mask, ones], 1)

    def num_targets(self, word_ids: Tensor, unit_words: Tensor) -> Tensor:
        """Unit words, and an end for every row."""
        return (unit_words != IGNORED).sum() + len(unit_words)

    def forward(self, states: Tensor, word_ids: Tensor, unit_words: Tensor, unit_word_of: Tensor) -> UnitDecoderOutput:
        """See `UnitDecoder.forward`; `unit_word_of` is not used."""
        self._check(states, word_ids)
        if not len(states):
            return self._nothing(states)
        real = unit_words != IGNORED
        targets = F.pad(unit_words, (0, 1), value=IGNORED)
        targets = targets.scatter(1, real.sum(1, keepdim=True), self.end_id)
        prompt, prompt_mask = self.prompt(states, word_ids)
        previous = self._noisy(unit_words.masked_fill(~real, self.end_id))
        inputs = torch.cat([prompt, self.embed_outputs(previous).to(prompt.dtype)], 1)
        mask = torch.cat([prompt_mask, prompt_mask.new_ones(unit_words.shape)], 1)
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        hidden = self.backbone(
            inputs_embeds=self.dropout(inputs), attention_mask=mask.long(), position_ids=positions, use_cache=False
        ).last_hidden_state
        return self._output(hidden[:, prompt.shape[1] - 1 :], targets)

    @torch.no_grad()
    def generate(
        self,
        states: Tensor,
        word_ids: Tensor,
        do_sample: bool = False,
        temperature: float = 1.0,
        top_p: float = 1.0,
        generator: torch.Generator | None = None,
        max_unit_words: int | None = None,
    ) -> list[UnitSequence]:
        """See `UnitDecoder.generate`. Rows that have ended leave the batch."""
        self._check(states, word_ids)
        if not len(states):
            return []
        limit, end = max_unit_words or self.config.max_unit_words, self.end_id
        said: list[tuple[Tensor, Tensor]] = []
        with torch.autocast(states.device.type, enabled=False):
            prompt, mask = self.prompt(states.to(self.dtype), word_ids)
            lengths = mask.sum(1)
            # Prompts are padded on the left to train; rows of a memory begin at its first position.
            order = (~mask).long().argsort(dim=1, stable=True)
            prompt = prompt.gather(1, order.unsqueeze(2).expand_as(prompt))
            active = torch.arange(len(states), device=states.device)
            steps = LeanSteps(self.backbone, len(states), capacity=prompt.shape[1] + 256)
            hidden = steps.advance(prompt, lengths.tolist())[active, lengths - 1]
            while len(active):
                output = choose(self.output_logits(hidden), do_sample, temperature, top_p, generator)
                said.append((active, output))
                done = output == end
                finished_rows = int(done.sum())
                if finished_rows == len(active) or len(said) > limit:
                    break
                if 2 * finished_rows >= len(active):
                    rows = (~done).nonzero().squeeze(1)
                    steps.keep_rows(rows)
                    active, output = active[rows], output[rows]
                hidden = steps.advance(self.embed_outputs(output).unsqueeze(1)).squeeze(1)
        return self._collect(said, word_ids, limit)

    def _collect(self, said: list[tuple[Tensor, Tensor]], word_ids: Tensor, limit: int) -> list[UnitSequence]:
        sequences = [UnitSequence([], [], finished=False, aligned=False) for _ in range(len(word_ids))]
        rows, outputs = (torch.cat(parts).tolist() for parts in zip(*said, strict=True)) if said else ([], [])
        for row, output in zip(rows, outputs, strict=True):
            sequence = sequences[row]
            if output == self.end_id:
                sequence.finished = True
            elif not sequence.finished and len(sequence.unit_words) < limit:
                unit_word = self.unit_word_of_output(output)
                if unit_word is not None:
                    sequence.unit_words.append(unit_word)
        for sequence, ids in zip(sequences, word_ids.tolist(), strict=True):
            spoken = [word for word in ids if word >= 0] or [-1]
            count = len(sequence.unit_words)
            sequence.word_of = [spoken[place * len(spoken) // count] for place in range(count)]
        return sequences
