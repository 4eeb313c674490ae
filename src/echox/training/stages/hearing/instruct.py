"""Stage "instruct": a finished model learns new answers in writing ("lessons"), and keeps all that it does besides.

What is built: the S2T of a finished model, and its language model a second time, as it was. What is trained: a LoRA on
the language model ("lora"); embeddings, head, hearing and speaking are frozen. Its batches: lessons and kept dialogues,
typed and spoken. Its loss: cross-entropy on the replies of lessons + `keep` x the distance to the language model as it
was on the replies of kept dialogues: Kullback-Leibler divergence of the next tokens, and the squared distance of the
last states, which the echo decoder reads, relative to their size. Lessons of stage "tool_lessons" teach it to call
tools: with `model.tools`, the result has the chat template that declares them.

Source: Li and Hoiem 2016, Learning without Forgetting, https://arxiv.org/abs/1606.09282; here on old dialogues instead
of new ones.
"""

from __future__ import annotations

import copy
import random
from collections import defaultdict
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from echox.config import TrainingConfig, recipe
from echox.data.features.tower_features import TowerFeatures
from echox.data.manifest import Dialogue
from echox.data.scoring import same_words
from echox.data.templates.tool_templates import has_call, taught_template
from echox.files import save_model
from echox.models.echox.modeling_s2t import S2TForConditionalGeneration
from echox.models.echox.processing_echox import EchoXProcessor
from echox.models.text.retokenization import Retokenizer
from echox.training.batches.normalisation import Denominators, share_of_step
from echox.training.networks.lora import (
    LoRASettings,
    add_lora,
    load_lora,
    lora_parameters,
    merged_state_dict,
    save_lora,
)
from echox.training.stages.dialogue.continued import items_of_run, load_s2t, shared_out
from echox.training.stages.dialogue.dialogues import SpokenDialogue, dialogue_batch, spoken_dialogues
from echox.training.stages.dialogue.lm import answer_dialogues, balance_topics, vary


@dataclass
class InstructData:
    """Dialogues; those of split "train" are for training, those of "validation" are answered.

    Attributes:
        lessons: manifests of typed dialogues whose replies are learned.
        kept: manifests of dialogues, typed or spoken, whose replies stay as they are.
        shares: fraction of the whole run's items that each of `lessons`, then of `kept`, gives.
        topic_temperature: of kept dialogues: 1 = topics in their own proportions, 0 = all topics equally often.
        topic_repeats: how many times as often dialogues of a topic are read besides, by topic: what is like the lessons
            is what they move first.
        lower, unpunctuated, slips: probabilities that what a user types is varied, as in stage "lm".
    """

    lessons: list[str]
    kept: list[str]
    shares: list[float]
    topic_temperature: float = 0.5
    topic_repeats: dict[str, int] = field(default_factory=dict)
    lower: float = 0.15
    unpunctuated: float = 0.15
    slips: float = 0.1


@dataclass
class InstructModel:
    """What is continued.

    Attributes:
        start_from: a finished model (of "s2t", "echo" or "package", also in 8 bits).
        tools: it learns to call tools: its chat template becomes `data.tool_templates.taught_template`.
        lora: folder of this stage with the LoRA to continue, which was trained on `start_from`; None: a new one.
    """

    start_from: str
    tools: bool = False
    lora: str | None = None


@dataclass
class Keep:
    """Weights of both distances to the language model as it was, beside the cross-entropy's 1."""

    logits: float = 1.0
    states: float = 1.0


@recipe("instruct")
@dataclass
class InstructRecipe:
    """The recipe of this stage."""

    stage: str
    data: InstructData
    model: InstructModel
    training: TrainingConfig
    keep: Keep = field(default_factory=Keep)
    lora: LoRASettings = field(default_factory=LoRASettings)

    def build(self) -> InstructStage:
        """Load the model, read the dialogues."""
        return InstructStage(self)


@dataclass(frozen=True)
class Item:
    """A dialogue, and whether its reply is learned."""

    spoken: SpokenDialogue
    lesson: bool


class InstructObjective(nn.Module):
    """See the module."""

    def __init__(
        self,
        model: S2TForConditionalGeneration,
        before: nn.Module,
        keep: Keep,
        retokenizer: Retokenizer | None = None,
    ) -> None:
        super().__init__()
        self.model, self.before, self.keep = model, before, keep
        self.retokenizer = retokenizer

    def denominators(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Reply tokens of lessons and of kept dialogues."""
        labelled = (batch["labels"] >= 0).sum(dim=1)
        learned, kept = (labelled * batch["lesson"]).sum(), (labelled * ~batch["lesson"]).sum()
        return {"lesson_loss": learned, "logits_distance": kept, "states_distance": kept}

    def forward(self, batch: dict[str, Tensor], denominators: Denominators | None = None) -> dict[str, Tensor]:
        """Losses by name, from a batch of :meth:`InstructStage.collate`."""
        inputs, mask, targets = self._inputs(batch)
        head = self.model.get_output_embeddings()
        states = self._states(self.model.language_model, inputs, mask)
        chosen, learned = targets >= 0, (targets >= 0) & batch["lesson"][:, None]
        kept = chosen & ~learned
        losses = F.cross_entropy(head(states[learned]).float(), targets[learned], reduction="sum")
        with torch.no_grad():
            states_before = self._states_before(inputs, mask, kept)
            expected = head(states_before).float().log_softmax(-1)
        found = head(states[kept]).float().log_softmax(-1)
        distances = (states[kept] - states_before).float().square().sum(-1) / states_before.float().square().sum(-1)
        means = {
            "lesson_loss": losses / learned.sum().clamp_min(1),
            "logits_distance": F.kl_div(found, expected, reduction="sum", log_target=True) / kept.sum().clamp_min(1),
            "states_distance": distances.sum() / kept.sum().clamp_min(1),
        }
        means = share_of_step(means, self, batch, denominators)
        kept_loss = self.keep.logits * means["logits_distance"] + self.keep.states * means["states_distance"]
        return {"loss": means["lesson_loss"] + kept_loss, **means}

    @torch.no_grad()
    def _inputs(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Embeddings (B, L, H), mask (B, L), and the token that each position is to predict (B, L), -100 for none."""
        audios = None
        if "input_features" in batch:
            features, features_mask = batch["input_features"], batch["input_features_mask"]
            audios = self.model.encode_audio(features, features_mask, retokenizer=self.retokenizer).embeds
        elif self.training:
            self.model.hear_nothing(batch["input_ids"].device)
        inputs, mask, labels = self.model.splice(batch["input_ids"], batch["attention_mask"], audios, batch["labels"])
        assert labels is not None
        return inputs, mask, F.pad(labels[:, 1:], (0, 1), value=-100)

    def _states_before(self, inputs: Tensor, mask: Tensor, kept: Tensor) -> Tensor:
        """(K, H) of the K kept positions; rows of lessons are not run, but one where there is nothing else.

        All processes run all blocks in every batch (`training/networks/parallel.py`).
        """
        rows = kept.any(1)
        rows[0] |= ~rows.any()
        return self._states(self.before, inputs[rows], mask[rows])[kept[rows]]

    @staticmethod
    def _states(language_model: nn.Module, inputs: Tensor, mask: Tensor) -> Tensor:
        base: nn.Module = language_model.base_model  # type: ignore[assignment]  # of every causal model of transformers
        states: Tensor = base(inputs_embeds=inputs, attention_mask=mask, use_cache=False).last_hidden_state
        return states


class InstructStage:
    """See the module."""

    name = "instruct"
    length_unit = ("tokens", 1.0)

    def __init__(self, recipe: InstructRecipe) -> None:
        self.recipe = recipe
        torch.manual_seed(recipe.training.seed)
        self.model = load_s2t(recipe.model.start_from)
        self.processor = EchoXProcessor.from_pretrained(recipe.model.start_from)
        self.tokenizer = self.processor.tokenizer
        if recipe.model.tools:
            audio_token = str(self.tokenizer.convert_ids_to_tokens(self.model.config.audio_token_id))
            template = taught_template(self.tokenizer.chat_template, audio_token)
            self.tokenizer.chat_template = self.processor.chat_template = template
        self.model.requires_grad_(False)
        before = copy.deepcopy(self.model.language_model)
        for value in add_lora(self.model.language_model, recipe.lora):
            value.requires_grad_(True)
        if recipe.model.lora is not None:
            load_lora(self.model, recipe.lora, recipe.model.lora)
        self.objective = InstructObjective(self.model, before, recipe.keep, self.processor.retokenizer)
        data, tower = recipe.data, TowerFeatures(self.model.config.audio_config)
        lessons = [spoken_dialogues(path, None) for path in data.lessons]
        kept = [spoken_dialogues(path, tower, as_served=True) for path in data.kept]
        self._check_topics(kept)
        sources = [[Item(one, True) for one in found if one.dialogue.split == "train"] for found in lessons]
        for found in kept:
            by_id = {one.dialogue.id: one for one in found}
            training = [one.dialogue for one in found if one.dialogue.split == "train"]
            balanced = balance_topics(training, data.topic_temperature) if training else []
            repeated = [one for one in balanced for _ in range(data.topic_repeats.get(one.topic or "", 1))]
            sources.append([Item(by_id[dialogue.id], False) for dialogue in repeated])
        places = shared_out([len(source) for source in sources], data.shares, items_of_run(recipe.training))
        together = [item for source in sources for item in source]
        self.items = [together[place] for place in places]
        self.evaluation_items = [
            one.dialogue for found in lessons for one in found if one.dialogue.split == "validation"
        ]

    def _check_topics(self, kept: list[list[SpokenDialogue]]) -> None:
        topics = {one.dialogue.topic or "" for found in kept for one in found}
        if unknown := sorted(set(self.recipe.data.topic_repeats) - topics):
            raise ValueError(
                f"data.topic_repeats: expected topics of data.kept ({', '.join(sorted(topics)[:30])}), found {unknown}"
            )

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """The LoRA."""
        return {"lora": lora_parameters(self.model.language_model)}

    def dataset(self) -> list[Item]:
        """All items of the run."""
        return self.items

    def lengths(self) -> list[int]:
        """Tokens of each dialogue; speech becomes about as many positions as its text has tokens."""
        unique = {item.spoken.dialogue.id: item.spoken.dialogue for item in self.items}
        texts = [" ".join(turn.text or "" for turn in dialogue.turns) for dialogue in unique.values()]
        tokens = self.tokenizer(texts, add_special_tokens=False)["input_ids"]
        counts = dict(zip(unique, map(len, tokens), strict=True))
        return [counts[item.spoken.dialogue.id] for item in self.items]

    def collate(self, items: list[Item], rng: random.Random) -> dict[str, Tensor]:
        """What `dialogue_batch` gives, and `lesson` (B,), whether the reply is learned."""
        varied = [replace(item.spoken, dialogue=self._vary(item.spoken.dialogue, rng)) for item in items]
        rows = [set(one.rows) for one in varied]
        spoken = [one for one in varied if one.rows]
        features = [one.features(turn) for one in spoken for turn in sorted(one.rows)]
        # The tower of a batch is that of its first dialogue.
        order = sorted(range(len(items)), key=lambda place: not rows[place])
        batch = dialogue_batch(
            self.tokenizer, [varied[place] for place in order], [rows[place] for place in order], features
        )
        batch["lesson"] = torch.tensor([items[place].lesson for place in order])
        return batch

    def _vary(self, dialogue: Dialogue, rng: random.Random) -> Dialogue:
        """What a user typed is varied; instructions that are system prompt and question stay equal."""
        data = self.recipe.data
        said = {turn.text or "" for turn in dialogue.turns if turn.role == "user" and not turn.audio}
        varied = {text: vary(text, data.lower, data.unpunctuated, data.slips, rng) or text for text in sorted(said)}
        turns = [
            replace(turn, text=varied.get(turn.text or "", turn.text))
            if turn.role != "assistant" and not turn.audio
            else turn
            for turn in dialogue.turns
        ]
        return replace(dialogue, turns=tuple(turns))

    def evaluate(self) -> dict[str, float]:
        """Fraction of exact greedy replies to the lessons' validation dialogues, all together and by topic.

        With `model.tools`: also the fraction that calls a tool of those where the lesson calls none.
        """
        replies = answer_dialogues(self.model.language_model, self.tokenizer, self.evaluation_items)
        right: dict[str, list[bool]] = defaultdict(list)
        needless: list[bool] = []
        for dialogue, reply in zip(self.evaluation_items, replies, strict=True):
            right[dialogue.topic or "none"].append(same_words(dialogue.turns[-1].text or "", reply))
            if self.recipe.model.tools and not has_call(dialogue.turns[-1].text or ""):
                needless.append(has_call(reply))
        topics = {f"exact/{topic}": sum(found) / len(found) for topic, found in sorted(right.items())}
        exact = sum(map(sum, right.values())) / max(1, len(self.evaluation_items))
        called = {"called_without_need": sum(needless) / len(needless)} if needless else {}
        return {"exact_validation": exact, **called, **topics}

    def save(self, folder: Path) -> None:
        """Merged weights that load with transformers alone, the LoRA beside them, the processor."""
        save_model(self.model, folder, merged_state_dict(self.model))
        save_lora(self.model, self.recipe.lora, folder)
        self.processor.save_pretrained(folder)
