"""Stage "direct_units", for comparison: a language model is trained to write unit words itself, instead of text.

That is what the paper says costs a language model its knowledge: the target is the recording of a reply, and an answer
said with other sounds is wrong. What is built: the S2T of stage I, whose language model gets an embedding and a head
for unit words (as if its vocabulary were larger; the tokens of text stay as they are). What is trained: all of the
language model, and these two. Its batches: dialogues with a recorded reply. Its loss: cross-entropy on the recording's
unit words. What is left of its knowledge is asked in text, with the same weights, afterwards.

Letters: B dialogues, L positions, U unit words, V their number, H width of the language model.

Source: EchoX (https://arxiv.org/abs/2509.09174, section 1: the premise); speech tokens as words of a language model:
SpeechGPT (https://arxiv.org/abs/2305.11000).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from echox.config import TrainingConfig, recipe
from echox.data.features.tower_features import TowerFeatures
from echox.data.manifest import UnitUtterance, read_unit_utterances
from echox.data.sampling import spread
from echox.data.scoring import edit_counts, same_words
from echox.files import save_model, write_tensors
from echox.models.decoding.greedy_rows import write_rows
from echox.models.echox.modeling_s2t import S2TForConditionalGeneration
from echox.models.echox.processing_echox import EchoXProcessor
from echox.models.text.chunked_loss import token_losses
from echox.models.text.retokenization import Retokenizer
from echox.models.text.text_embeddings import text_embedding_table
from echox.models.unit_language.tokenization_auto import AutoUnitLanguage
from echox.training.batches.collate import IGNORE_INDEX, pad_sequences
from echox.training.batches.normalisation import Denominators, RunningMeans, share_of_step
from echox.training.networks.modules import on_device
from echox.training.stages.dialogue.continued import load_s2t, load_t2c, speaking_processor
from echox.training.stages.dialogue.dialogues import SpokenDialogue, dialogue_batch, replies
from echox.training.stages.speaking.echo import EchoData, echo_dialogues
from echox.training.stages.speaking.t2c import read_batch, spoken_batch, spoken_text

WEIGHTS = "unit_head.safetensors"
MAX_UNIT_WORDS = 400
"""Of a reply in evaluation."""
_TOGETHER = 32
"""Replies that are written at a time."""


class DirectBatch(TypedDict):
    """``prompt``: inputs of S2T; ``unit_words``: (B, U), -100 padded."""

    prompt: dict[str, Any]
    unit_words: Tensor


@dataclass
class DirectUnitsModel:
    """Parts: folders of stage I (``s2t``) and of a unit language; either may be a whole model, which has it.

    Attributes:
        t2c: of stage II, or a whole model: what it reads of the replies is learned, instead of ``data.recordings``.
    """

    s2t: str
    unit_language: str
    t2c: str | None = None


@recipe("direct_units")
@dataclass
class DirectUnitsRecipe:
    """The recipe of this stage; ``data.recordings`` or ``model.t2c`` is needed."""

    stage: str
    data: EchoData
    model: DirectUnitsModel
    training: TrainingConfig

    def build(self) -> DirectUnitsStage:
        """Load S2T, add rows for unit words, read dialogues and recordings.

        Raises: ValueError without recordings of the dialogues' replies, or with a T2C of another unit language.
        """
        return DirectUnitsStage(self)


class UnitWriter(nn.Module):
    """A language model that hears (S2T) and writes unit words.

    Args:
        s2t: its language model is changed by training.
        unit_words: V; one more embedding and score is the end.
        retokenizer: of the processor; aligner "recogniser" needs it with audio.
    """

    def __init__(
        self, s2t: S2TForConditionalGeneration, unit_words: int, retokenizer: Retokenizer | None = None
    ) -> None:
        super().__init__()
        self.retokenizer = retokenizer
        table = text_embedding_table(s2t.get_input_embeddings())
        width = table.shape[1]
        self.s2t, self.end_id = s2t, unit_words
        self.unit_embedding = nn.Embedding(unit_words + 1, width)
        self.unit_head = nn.Linear(width, unit_words + 1, bias=False)
        # As large as the embeddings that the language model knows.
        nn.init.normal_(self.unit_embedding.weight, std=float(table.std()))
        nn.init.normal_(self.unit_head.weight, std=width**-0.5)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> UnitWriter:
        """From the output of this stage."""
        s2t = S2TForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
        weights = load_file(Path(folder) / WEIGHTS)
        retokenizer = EchoXProcessor.from_pretrained(folder).retokenizer
        model = cls(s2t, len(weights["unit_head.weight"]) - 1, retokenizer)
        model.load_state_dict(weights, strict=False)
        return model.eval()

    def prompts(self, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Input states of S2T's inputs (B, L, H) and their mask (B, L); padding is on the right."""
        audios: list[Tensor] = []
        if "input_features" in inputs:
            with torch.no_grad():  # hearing is frozen
                audios = self.s2t.encode_audio(
                    inputs["input_features"], inputs["input_features_mask"], retokenizer=self.retokenizer
                ).embeds
        elif self.training:
            self.s2t.hear_nothing(inputs["input_ids"].device)
        embeds, mask, _ = self.s2t.splice(inputs["input_ids"], inputs["attention_mask"], audios)
        return embeds, mask

    def forward(self, inputs: dict[str, Tensor], unit_words: Tensor) -> tuple[Tensor, Tensor]:
        """States that predict each unit word and the end (N, H), and these targets (N,), row after row.

        Args:
            inputs: of S2T, prompts without a reply.
            unit_words: (B, U), -100 padded.
        """
        embeds, mask = self.prompts(inputs)
        rows, places, targets = [], [], []
        for states, seen, row in zip(embeds, mask.bool(), unit_words, strict=True):
            words = row[row >= 0]
            prompt = states[seen]
            rows.append(torch.cat([prompt, self.unit_embedding(words)]))
            places.append((len(prompt) - 1, len(words) + 1))
            targets.append(torch.cat([words, words.new_tensor([self.end_id])]))
        lengths = torch.tensor([len(row) for row in rows], device=embeds.device)
        joined = nn.utils.rnn.pad_sequence(rows, batch_first=True)  # (B, L, H)
        seen = torch.arange(joined.shape[1], device=embeds.device) < lengths[:, None]
        output = self.s2t.language_model.base_model(inputs_embeds=joined, attention_mask=seen.long(), use_cache=False)
        states = [
            row[first : first + count] for row, (first, count) in zip(output.last_hidden_state, places, strict=True)
        ]
        return torch.cat(states), torch.cat(targets)

    @torch.inference_mode()
    def write(self, embeds: Tensor, mask: Tensor, limit: int = MAX_UNIT_WORDS) -> list[list[int]]:
        """Greedy unit words of each prompt.

        Args:
            embeds: (B, L, H), padded on the right where ``mask`` (B, L) is 0.
            mask: of the prompts.
            limit: unit words of a reply.
        """
        prompts = [row[seen.bool()] for row, seen in zip(embeds, mask, strict=True)]
        said: list[list[int]] = []
        for start in range(0, len(prompts), _TOGETHER):
            rows = write_rows(
                self.s2t.language_model.base_model,
                prompts[start : start + _TOGETHER],
                self.unit_head,
                self.unit_embedding,
                [self.end_id],
                limit,
            )
            said += [row.token_ids for row in rows]
        return said


class DirectUnitsObjective(nn.Module):
    """Cross-entropy on the recording's unit words and their end."""

    def __init__(self, model: UnitWriter) -> None:
        super().__init__()
        self.model = model

    def denominators(self, batch: DirectBatch) -> dict[str, Tensor]:
        """Unit words and ends."""
        known = batch["unit_words"] >= 0
        count = known.sum() + len(known)
        return {"unit_loss": count, "unit_accuracy": count}

    def forward(self, batch: DirectBatch, denominators: Denominators | None = None) -> dict[str, Tensor]:
        """Losses by name, from a batch of :meth:`DirectUnitsStage.collate`."""
        losses = share_of_step(self.measure(batch)[0], self, dict(batch), denominators)
        return {"loss": losses["unit_loss"], **losses}

    def measure(self, batch: DirectBatch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Means over a batch by name, and what they are over."""
        states, targets = self.model(batch["prompt"], batch["unit_words"])
        losses, best = token_losses(states, self.model.unit_head, targets)
        means = {"unit_loss": losses.mean(), "unit_accuracy": (best == targets).float().mean()}
        return means, self.denominators(batch)


class DirectUnitsStage:
    """See the module."""

    name = "direct_units"

    def __init__(self, recipe: DirectUnitsRecipe) -> None:
        self.recipe = recipe
        parts, data = recipe.model, recipe.data
        if (data.recordings is None) == (parts.t2c is None):
            raise ValueError(
                "data.recordings: expected a manifest of units (stage units), or model.t2c to read the replies, found "
                f"{data.recordings!r} and {parts.t2c!r}"
            )
        self.tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(parts.s2t)
        self.language = AutoUnitLanguage.from_pretrained(parts.unit_language)
        s2t = load_s2t(parts.s2t)
        self.tower = TowerFeatures(s2t.config.audio_config)
        self.processor = speaking_processor(self.tower, self.tokenizer, self.language, parts.s2t)
        torch.manual_seed(recipe.training.seed)
        self.model = UnitWriter(s2t, len(self.language.words), self.processor.retokenizer)
        s2t.requires_grad_(False)
        for values in self.parameter_groups().values():
            for value in values:
                value.requires_grad_(True)
        s2t.audio_tower.set_attn_implementation("sdpa")  # frozen: `training/networks/attention.py`
        self.objective = DirectUnitsObjective(self.model)
        utterances = [] if data.recordings is None else read_unit_utterances(data.recordings)
        recordings = [spoken_text(one, self.tokenizer, self.language) for one in utterances]
        self._recorded = {one.text: list(one.unit_words) for one in recordings}
        self._t2c = None if parts.t2c is None else load_t2c(parts.t2c, self.language).eval()
        train, held_out = echo_dialogues(data, self.tower)
        self.train_items = train.chosen([place for place, item in enumerate(train) if self._has_target(item)])
        if not self.train_items:
            raise ValueError(
                f"{data.recordings}: expected recordings of the replies of {len(train)} training dialogues, found none"
            )
        kept = {split: [item for item in items if self._has_target(item)] for split, items in held_out.items()}
        self.evaluation_items = {split: items for split, items in kept.items() if items}

    def _has_target(self, item: SpokenDialogue) -> bool:
        """Whether a dialogue has one reply, and that a recording or a reader."""
        texts = replies(item)
        return len(texts) == 1 and (self._t2c is not None or bool(self._recorded.get(texts[0])))

    def _targets(self, items: Sequence[SpokenDialogue]) -> list[list[int]]:
        """Unit words of each dialogue's reply; what the T2C read once is remembered."""
        texts = [replies(item)[0] for item in items]
        unread = [text for text in dict.fromkeys(texts) if text not in self._recorded]
        if unread:
            assert self._t2c is not None, "dialogues without a target were left out"
            written = [UnitUtterance(text, text, (), (), ()) for text in unread]
            batch = spoken_batch(
                [spoken_text(one, self.tokenizer, self.language) for one in written], self._t2c.config.max_word_letters
            )
            with torch.inference_mode():
                read = read_batch(self._t2c, batch)
            self._recorded |= {text: list(said.unit_words) for text, said in zip(unread, read, strict=True)}
        return [self._recorded[text] for text in texts]

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """All of the language model but a head for text of its own, which is not used; the rows of unit words."""
        units = [*self.model.unit_embedding.parameters(), *self.model.unit_head.parameters()]
        language_model = self.model.s2t.language_model
        used = {id(value) for value in language_model.base_model.parameters()}  # with a head that is the embedding too
        return {"language_model": [v for v in language_model.parameters() if id(v) in used], "units": units}

    def dataset(self) -> Sequence[SpokenDialogue]:
        """Training dialogues."""
        return self.train_items

    def lengths(self) -> list[int]:
        """See `Dialogues.spoken_lengths`."""
        return self.train_items.spoken_lengths()

    def collate(self, items: list[SpokenDialogue], rng: random.Random) -> DirectBatch:
        """Prompts without their replies, and unit words."""
        return self._batch(items)

    def _batch(self, items: Sequence[SpokenDialogue]) -> DirectBatch:
        heard = [item.features(turn) for item in items for turn in sorted(item.rows)]
        prompt = dialogue_batch(self.tokenizer, items, [set(item.rows) for item in items], heard, last_reply=False)
        kept = {name: value for name, value in prompt.items() if not name.endswith("labels")}
        return {"prompt": kept, "unit_words": pad_sequences(self._targets(items), IGNORE_INDEX)}

    def evaluate(self) -> dict[str, float]:
        """By held-out split: the losses, unit edits per recorded unit of greedy speech, and exact replies in text."""
        metrics: dict[str, float] = {}
        device = self.model.unit_head.weight.device
        for split, items in self.evaluation_items.items():
            running, errors, units = RunningMeans(), 0, 0
            for part in (items[start : start + 16] for start in range(0, len(items), 16)):
                running.add(*self.objective.measure(on_device(self._batch(part), device)))
            few = spread(items, 16)
            batch = on_device(self._batch(few), device)
            for target, said in zip(
                self._targets(few), self.model.write(*self.model.prompts(batch["prompt"])), strict=True
            ):
                wanted = self.language.decode(target)
                errors += edit_counts(wanted, self.language.decode(said)).errors
                units += len(wanted)
            written = self.model.s2t.generate(
                **batch["prompt"], retokenizer=self.model.retokenizer, do_sample=False, max_new_tokens=96
            )
            texts = self.tokenizer.batch_decode(written, skip_special_tokens=True)
            exact = sum(same_words(replies(item)[0], text) for item, text in zip(few, texts, strict=True))
            metrics |= {f"{split}_{name}": value for name, value in running.means().items()}
            metrics |= {f"{split}_unit_error": errors / max(1, units), f"{split}_text_exact": exact / len(few)}
        return metrics

    def save(self, folder: Path) -> None:
        """S2T with the changed language model, as stage I saves it; the rows of unit words and their language."""
        save_model(self.model.s2t, folder)
        own = {name: value for name, value in self.model.state_dict().items() if not name.startswith("s2t.")}
        write_tensors(folder / WEIGHTS, own)
        self.processor.save_pretrained(folder)
