"""The text language model from scratch: any causal LM of transformers on text dialogues.

Trained: all weights. Loss: cross-entropy on the replies and their ``<|end|>``; with a small weight on the questions, so
that the model also learns what users say. Questions are varied (case, punctuation, one error) because they will come
from a speech recogniser; some batches join dialogues into conversations and put a system prompt before them.
"""

from __future__ import annotations

import random
import string
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerBase

from echox.config import TrainingConfig, recipe
from echox.data.manifest import Dialogue, read_dialogues
from echox.data.sampling import spread
from echox.files import JsonObject, save_model
from echox.models.pretrained import CausalLM, run_generate
from echox.models.text.chunked_loss import token_losses
from echox.models.text.tokenization_text import render_chat, train_text_tokenizer
from echox.training.batches.normalisation import Denominators, share_of_step

SYSTEM_PROMPT = "You are Echo, a helpful voice assistant."


@dataclass
class LMData:
    """Dialogues and how they are varied. Probabilities are per item; those of `join` and `system` per batch.

    Attributes:
        dialogues: manifest of text dialogues with the splits "train" and "heldout".
        topic_temperature: 1 = topics in their own proportions, 0 = all topics equally often.
        lower, unpunctuated, slips: of a question: lower case, no final mark, one wrong word or letter.
        join: a batch of conversations of two or three dialogues. system: a system prompt in front.
    """

    dialogues: str
    topic_temperature: float = 0.5
    lower: float = 0.15
    unpunctuated: float = 0.15
    slips: float = 0.1
    join: float = 0.15
    system: float = 0.1
    max_evaluation_items: int = 600


@dataclass
class LMTokenizer:
    """Vocabulary size of the tokenizer to train."""

    vocab_size: int = 1536


@recipe("lm")
@dataclass
class LMRecipe:
    """Recipe of the text language model.

    Attributes:
        model: ``architecture`` (a transformers model type, for example llama) and its configuration values.
        question_loss_weight: weight of a question token beside a reply token's 1.
    """

    stage: str
    data: LMData
    model: JsonObject
    training: TrainingConfig
    tokenizer: LMTokenizer = field(default_factory=LMTokenizer)
    question_loss_weight: float = 0.1

    def build(self) -> LMStage:
        """Read the dialogues, train the tokenizer, make the model.

        Raises: ValueError for a bad manifest or model section.
        """
        dialogues = read_dialogues(self.data.dialogues)
        tokenizer = dialogue_tokenizer(dialogues, self.tokenizer.vocab_size)
        return LMStage(self, dialogues, tokenizer, build_language_model(self.model, tokenizer))


def dialogue_tokenizer(dialogues: Sequence[Dialogue], vocab_size: int) -> PreTrainedTokenizerBase:
    """The tokenizer of the training dialogues; stage "encoder", which may be first, trains the same one."""
    training = [dialogue for dialogue in dialogues if dialogue.split == "train"]
    texts = [turn.text for dialogue in training for turn in dialogue.turns if turn.text]
    # Lower-cased words too: varied questions and transcripts must not be split into letters.
    lowered = [text.lower() for text in texts]
    return train_text_tokenizer([*texts, *lowered, SYSTEM_PROMPT], vocab_size)


def build_language_model(settings: JsonObject, tokenizer: PreTrainedTokenizerBase) -> CausalLM:
    """An untrained causal LM with the tokenizer's vocabulary and special tokens.

    Raises: ValueError when `settings` has no known ``architecture``.
    """
    values = dict(settings)
    architecture = values.pop("architecture", None)
    if architecture is None:
        raise ValueError("model: expected a key 'architecture' (a transformers model type, for example llama)")
    ids = {
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(architecture, **{**values, **ids}))


class LMObjective(nn.Module):
    """Weighted next-token cross-entropy; logits only where there is a weight."""

    def __init__(self, model: CausalLM) -> None:
        super().__init__()
        self.model = model

    def denominators(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Sum of the weights; reply tokens."""
        weights = batch["weights"][:, 1:]
        replies = (weights == 1.0).sum()
        return {"loss": weights.sum(), "reply_loss": replies, "reply_accuracy": replies}

    def forward(self, batch: dict[str, Tensor], denominators: Denominators | None = None) -> dict[str, Tensor]:
        """`input_ids` (B, N) right-padded, `weights` (B, N) of each token as a target -> losses.

        Right-padding needs no attention mask: a causal model's real tokens never see it.
        """
        input_ids, weights = batch["input_ids"], batch["weights"][:, 1:]
        states = self.model.base_model(input_ids=input_ids, use_cache=False).last_hidden_state[:, :-1]
        chosen = weights > 0
        weights, targets = weights[chosen], input_ids[:, 1:][chosen]
        losses, best = token_losses(states[chosen], self.model.get_output_embeddings(), targets)
        replies = weights == 1.0
        count = replies.sum().clamp_min(1)
        means = {
            "loss": (losses * weights).sum() / weights.sum().clamp_min(1e-9),
            "reply_loss": losses[replies].detach().sum() / count,
            "reply_accuracy": (best == targets)[replies].sum() / count,
        }
        return share_of_step(means, self, batch, denominators)


class LMStage:
    """See the module's docstring."""

    name = "lm"
    length_unit = ("tokens", 1.0)

    def __init__(
        self,
        settings: LMRecipe,
        dialogues: Sequence[Dialogue],
        tokenizer: PreTrainedTokenizerBase,
        model: CausalLM,
    ) -> None:
        self.settings, self.tokenizer, self.model = settings, tokenizer, model
        self.objective = LMObjective(model)
        self.training_items = [item for item in dialogues if item.split == "train"]
        self.heldout = [item for item in dialogues if item.split == "heldout"]
        if not self.training_items or not self.heldout:
            raise ValueError(
                f"{settings.data.dialogues}: expected dialogues of splits 'train' and 'heldout', found "
                f"{len(self.training_items)} and {len(self.heldout)}"
            )
        self.record_details: JsonObject = {}
        self._roles = {role: tokenizer.convert_tokens_to_ids(f"<|{role}|>") for role in ("system", "user", "assistant")}

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Everything is trained."""
        return {"language_model": list(self.model.parameters())}

    def dataset(self) -> list[Dialogue]:
        """Training dialogues, those of small topics repeated (`topic_temperature`)."""
        self._epoch = balance_topics(self.training_items, self.settings.data.topic_temperature)
        return self._epoch

    def lengths(self) -> list[int]:
        """Tokens of each dialogue."""
        unique = {item.id: item for item in self._epoch}
        texts = [" ".join(turn.text or "" for turn in item.turns) for item in unique.values()]
        tokens = self.tokenizer(texts, add_special_tokens=False)["input_ids"]
        counts = dict(zip(unique, map(len, tokens), strict=True))
        return [counts[item.id] for item in self._epoch]

    def collate(self, items: list[Dialogue], rng: random.Random) -> dict[str, Tensor]:
        """Dialogues -> `input_ids` (B, N), `weights` (B, N): 1 on replies and their end, less on questions, else 0."""
        data = self.settings.data
        joined = rng.random() < data.join
        conversations = []
        for item in items:
            turns = [(turn.role, turn.text or "") for turn in item.turns]
            for _ in range(rng.choice((1, 1, 2)) if joined else 0):
                turns += [(turn.role, turn.text or "") for turn in rng.choice(self.training_items).turns]
            if rng.random() < data.system and turns[0][0] != "system":
                turns.insert(0, ("system", SYSTEM_PROMPT))
            conversations.append([(role, self._vary(text, rng) if role == "user" else text) for role, text in turns])
        return self._encode(conversations)

    def _vary(self, text: str, rng: random.Random) -> str:
        data = self.settings.data
        return vary(text, data.lower, data.unpunctuated, data.slips, rng)

    def _encode(self, conversations: list[list[tuple[str, str]]]) -> dict[str, Tensor]:
        texts = [text for turns in conversations for _, text in turns]
        encoded = iter(self.tokenizer(texts, add_special_tokens=False)["input_ids"])
        question_weight = self.settings.question_loss_weight
        rows, weights = [], []
        for turns in conversations:
            row, weight = [self.tokenizer.bos_token_id], [0.0]
            for role, _ in turns:
                tokens = [*next(encoded), self.tokenizer.eos_token_id]
                row += [self._roles[role], *tokens]
                weight += [0.0] + [1.0 if role == "assistant" else question_weight * (role == "user")] * len(tokens)
            rows.append(torch.tensor(row))
            weights.append(torch.tensor(weight))
        pad = self.tokenizer.pad_token_id
        return {
            "input_ids": nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=pad),
            "weights": nn.utils.rnn.pad_sequence(weights, batch_first=True),
        }

    def evaluate(self) -> dict[str, float]:
        """Fraction of exact greedy replies on held-out paraphrases (also by topic) and on some training dialogues."""
        limit = self.settings.data.max_evaluation_items
        heldout = spread(self.heldout, limit)
        replies = self.answer(heldout)
        right: dict[str, list[bool]] = defaultdict(list)
        for item, reply in zip(heldout, replies, strict=True):
            right[item.topic or "none"].append(reply == item.turns[-1].text)
        topics = {topic: sum(values) / len(values) for topic, values in sorted(right.items())}
        self.record_details = {"exact_by_topic": topics, "items_by_topic": {name: len(right[name]) for name in topics}}
        seen = spread(self.training_items, limit // 3)
        seen_replies = self.answer(seen)
        return {
            "exact_heldout": sum(map(sum, right.values())) / len(heldout),
            "exact_train": sum(reply == item.turns[-1].text for item, reply in zip(seen, seen_replies)) / len(seen),
            **{f"exact/{topic}": value for topic, value in topics.items()},
        }

    def answer(self, dialogues: Sequence[Dialogue], max_new_tokens: int = 96) -> list[str]:
        """See `answer_dialogues`."""
        return answer_dialogues(self.model, self.tokenizer, dialogues, max_new_tokens=max_new_tokens)

    def sample(self, folder: Path) -> None:
        """Write held-out questions with the reply, and the expected reply where they differ."""
        chosen = spread(self.heldout, self.settings.data.max_evaluation_items // 4)
        with (folder / "replies.txt").open("w", encoding="utf-8") as file:
            for item, reply in zip(chosen, self.answer(chosen), strict=True):
                asked, expected = item.turns[-2].text, item.turns[-1].text
                file.write(f"[{item.topic}] {asked}\n  {reply}\n")
                file.write("" if reply == expected else f"  expected: {expected}\n")

    def save(self, folder: Path) -> None:
        """Model and tokenizer, as transformers writes them."""
        save_model(self.model, folder)
        self.tokenizer.save_pretrained(folder)


def answer_dialogues(
    model: CausalLM,
    tokenizer: PreTrainedTokenizerBase,
    dialogues: Sequence[Dialogue],
    batch_size: int = 64,
    max_new_tokens: int = 96,
) -> list[str]:
    """Greedy replies to the last turn but one of each dialogue."""
    prompts = [
        render_chat(
            tokenizer,
            [{"role": turn.role, "content": turn.text} for turn in dialogue.turns[:-1]],
            add_generation_prompt=True,
        )
        for dialogue in dialogues
    ]
    # Replies of similar length together: the longest sets the time of a batch.
    order = sorted(range(len(prompts)), key=lambda index: len(dialogues[index].turns[-1].text or ""))
    replies = [""] * len(prompts)
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        inputs = tokenizer(
            [prompts[index] for index in chosen],
            add_special_tokens=False,
            padding=True,
            padding_side="left",
            return_tensors="pt",
        ).to(model.device)
        inputs.pop("token_type_ids", None)
        written = run_generate(model, **inputs, do_sample=False, max_new_tokens=max_new_tokens)
        texts = tokenizer.batch_decode(written[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        for index, text in zip(chosen, texts, strict=True):
            replies[index] = text
    return replies


def balance_topics(items: Sequence[Dialogue], temperature: float) -> list[Dialogue]:
    """Repeat dialogues so that a topic of n items has weight n ** temperature (those of the largest appear once)."""
    by_topic: dict[str, list[Dialogue]] = defaultdict(list)
    for item in items:
        by_topic[(item.topic or "").rsplit("/")[-1]].append(item)  # "multi_turn/capital" counts as "capital"
    largest = max(map(len, by_topic.values()))
    balanced: list[Dialogue] = []
    for members in by_topic.values():
        repeats = (len(members) / largest) ** (temperature - 1.0)
        whole = int(repeats)
        extra = round((repeats - whole) * len(members))
        # Repetitions are evenly spaced over the file.
        balanced += members * whole + [members[i * len(members) // extra] for i in range(extra)]
    return balanced


def vary(text: str, lower: float, unpunctuated: float, slips: float, rng: random.Random) -> str:
    """A question as it may come from a recogniser or a hasty writer; the probabilities are those of `LMData`."""
    text = slip(text, rng) if rng.random() < slips else text
    text = text.rstrip(string.punctuation) if rng.random() < unpunctuated else text
    return text.lower() if rng.random() < lower else text


def slip(text: str, rng: random.Random) -> str:
    """An error as of a recogniser: one word lost or repeated, or one letter wrong."""
    words = text.split()
    if len(words) < 3:
        return text
    place = rng.randrange(len(words))
    kind = rng.choice(("lost", "twice", "letter"))
    if kind == "lost":
        # Short words only: long ones hold the meaning of the question.
        short = [index for index, word in enumerate(words) if len(word) <= 3]
        del words[rng.choice(short or [0])]
    elif kind == "twice":
        words.insert(place, words[place])
    else:
        word = words[place]
        letter = rng.randrange(len(word))
        words[place] = word[:letter] + rng.choice(["", rng.choice(string.ascii_lowercase)]) + word[letter + 1 :]
    return " ".join(word for word in words if word)
