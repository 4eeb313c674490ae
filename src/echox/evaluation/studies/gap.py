"""Study of the acoustic-semantic gap: are words closer in a model if they mean the same, or if they sound the same?

The paper draws it with Hi, Hello and High. Here many pairs of words (``data/gap_pairs.yaml``) are compared in every
space of a checkpoint. A word is its mean over replies that contain it. The spaces are: text embeddings, the language
model's states that predict the word, these states after the denoising adapter, the word vectors of the echo decoder (if
it has any), and its units. The gap of a space is the mean similarity of pairs alike in sound minus that of pairs alike
in meaning: below 0 the space is ordered by meaning, above 0 by sound.

Letters: B replies, R reply tokens, S segments, H width of the language model.

Source: arXiv 2509.09174, the figure of Hi, Hello and High.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
import yaml
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from echox.api import EchoX
from echox.config import load_recipe
from echox.data.scoring import edit_counts, normalize_words
from echox.evaluation.scoring.statistics import DIFFERENCE, bootstrap, permutation_of_groups
from echox.models.echox.modeling_echox import EchoXForConditionalGeneration
from echox.models.echox.modeling_s2t import S2TForConditionalGeneration
from echox.models.t2c.modeling_letters import letters_of_words, pad_letters
from echox.models.t2c.modeling_t2c import T2CForUnitGeneration
from echox.models.t2c.modeling_word_synchronous import WordSynchronousDecoder
from echox.models.t2c.text_words import TextWords
from echox.models.text.tokenization_text import decode_text, word_index
from echox.models.unit_language.tokenization_auto import AutoUnitLanguage
from echox.models.unit_language.tokenization_unit_language import UnitLanguage
from echox.streaming.reply_text.token_text import token_texts
from echox.training.stages.dialogue.dialogues import SpokenDialogue, dialogue_batch
from echox.training.stages.speaking.echo import join
from echox.training.stages.speaking.echo_targets import select

Pairs = dict[str, list[tuple[str, str]]]
KINDS = ("meaning", "sound")
Similarities = dict[str, dict[str, list[float]]]
"""Space -> kind -> similarity of each pair."""


@dataclass
class Word:
    """States and units of one word, at the places where replies contain it.

    Attributes:
        vectors: space -> one vector (D,) for each place.
        units: of the spoken word, one sequence for each place.
    """

    vectors: dict[str, list[Tensor]]
    units: list[list[int]]


def read_pairs(path: str | Path | None = None) -> Pairs:
    """Pairs of words by kind, "meaning" and "sound"; None: those of the package.

    Raises:
        ValueError: other kinds, or an entry that is no pair.
    """
    source = Path(path) if path is not None else files("echox") / "data" / "gap_pairs.yaml"
    values = yaml.safe_load(source.read_text(encoding="utf-8"))
    if (
        not isinstance(values, dict)
        or set(values) != set(KINDS)
        or any(not isinstance(pair, list) or len(pair) != 2 for pairs in values.values() for pair in pairs)
    ):
        raise ValueError(f"{source}: expected the lists of pairs 'meaning' and 'sound', each pair two words")
    return {kind: [(str(one), str(other)) for one, other in values[kind]] for kind in KINDS}


def measure_gap(checkpoint: str | Path, items: Sequence[SpokenDialogue], pairs: Pairs) -> Similarities:
    """Similarities in every space of a checkpoint.

    Args:
        checkpoint: model folder or "nano"; or an echo recipe (``.yaml``): the model it starts from, hidden states going
            straight into a copy of the T2C.
        items: written dialogues.
        pairs: to compare.

    Raises:
        ValueError: no model there, or none of the words in the replies.
    """
    if str(checkpoint).endswith(".yaml"):
        recipe = load_recipe(checkpoint, ["model.denoise=false"])
        t2c = T2CForUnitGeneration.from_pretrained(recipe.model.t2c, dtype=torch.float32)
        s2t = S2TForConditionalGeneration.from_pretrained(recipe.model.s2t, dtype=torch.float32)
        model = join(s2t, t2c, recipe).eval()
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(recipe.model.s2t)
        language: UnitLanguage = AutoUnitLanguage.from_pretrained(recipe.model.t2c)
    else:
        engine = EchoX.from_pretrained(str(checkpoint), device="cpu").engine
        model, tokenizer, language = engine.model, engine.tokenizer, engine.unit_language
    wanted = sorted({word for kind in KINDS for pair in pairs[kind] for word in pair})
    order = random.Random(0).sample(range(len(items)), len(items))
    words = collect_words(model, tokenizer, language, [items[place] for place in order], wanted)
    if not words:
        raise ValueError("expected replies that hold words of the pairs, found none; choose other dialogues or pairs")
    return similarities(words, pairs)


@torch.inference_mode()
def collect_words(
    model: EchoXForConditionalGeneration,
    tokenizer: PreTrainedTokenizerBase,
    language: UnitLanguage,
    items: Sequence[SpokenDialogue],
    wanted: Sequence[str],
    most: int = 4,
) -> dict[str, Word]:
    """States and units of the wanted words in the replies of written dialogues.

    Args:
        model: in evaluation mode.
        tokenizer: its own.
        language: its unit language.
        items: dialogues; those with a wanted word in the last reply are read, others skipped.
        wanted: words.
        most: places per word, at most.
    """
    names = {word.lower() for word in wanted}
    left = dict.fromkeys(names, most)
    chosen = []
    for item in items:
        found = names & set(normalize_words(item.dialogue.turns[-1].text or ""))
        if any(left[name] > 0 for name in found):
            chosen.append(item)
            for name in found:
                left[name] -= 1
    words: dict[str, Word] = {}
    for start in range(0, len(chosen), 32):
        part = chosen[start : start + 32]
        batch = dialogue_batch(tokenizer, part, [set() for _ in part], [])
        output = model.s2t(**batch)
        reply_states, tokens = select(output.last_hidden_state, output.labels)  # (B, R, H), (B, R)
        _collect(model, tokenizer, language, reply_states, tokens, names, words)
    return {
        name: Word({space: vectors[:most] for space, vectors in word.vectors.items()}, word.units[:most])
        for name, word in words.items()
    }


def _collect(
    model: EchoXForConditionalGeneration,
    tokenizer: PreTrainedTokenizerBase,
    language: UnitLanguage,
    reply_states: Tensor,
    tokens: Tensor,
    names: set[str],
    words: dict[str, Word],
) -> None:
    """Add the wanted words of one batch of replies."""
    rows = [word_index(tokenizer, [token for token in row if token >= 0]) for row in tokens.tolist()]
    word_ids = torch.tensor([row + [-1] * (tokens.shape[1] - len(row)) for row in rows])
    denoised = model.denoise(reply_states, tokens)
    spaces = {"text": model.text_embeddings(tokens), "hidden": reply_states, "echo adapter": denoised}
    decoder = model.echo_decoder
    texts = [token_texts(tokenizer, [token for token in row if token >= 0]) for row in tokens.tolist()]
    limit = decoder.config.max_word_letters
    letters = pad_letters([letters_of_words(text, row, limit) for text, row in zip(texts, rows, strict=True)])
    said = decoder.generate(denoised, word_ids, word_letters=letters)
    vectors = None
    if isinstance(decoder, WordSynchronousDecoder):  # (B, W, D), W counted from 0 as word_ids are
        vectors = decoder.text_vectors(denoised, TextWords.of(word_ids), letters).words
    for row, ids in enumerate(rows):
        reply = [token for token in tokens[row].tolist() if token >= 0]
        text = decode_text(tokenizer, reply, skip_special_tokens=True)
        for number, written in enumerate(text.split()):
            name = " ".join(normalize_words(written))
            if name not in names:
                continue
            word = words.setdefault(name, Word({}, []))
            # Punctuation is part of its word when it is spoken, but not of its meaning.
            places = [
                place
                for place, of in enumerate(ids)
                if of == number and normalize_words(decode_text(tokenizer, [int(tokens[row, place])]))
            ]
            for space, states in spaces.items():
                word.vectors.setdefault(space, []).append(states[row, places].float().mean(0))
            if vectors is not None:
                word.vectors.setdefault("echo decoder", []).append(vectors[row, number].float())
            pieces = [unit for unit, of in zip(said[row].unit_words, said[row].word_of, strict=True) if of == number]
            word.units.append(language.decode_reduced(pieces))


def similarities(words: dict[str, Word], pairs: Pairs) -> Similarities:
    """Space -> kind -> similarity of each pair whose words were found: cosines; of units, 1 - edits per unit.

    The mean over all words is subtracted from the vectors before the cosine, as it is common to all pairs.
    """
    spaces = list(next(iter(words.values())).vectors)
    found: Similarities = {space: {kind: [] for kind in KINDS} for space in [*spaces, "units"]}
    for space in spaces:
        means = {name: torch.stack(word.vectors[space]).mean(0) for name, word in words.items()}
        centre = torch.stack(list(means.values())).mean(0)
        for kind, one, other in _found_pairs(words, pairs):
            value = torch.cosine_similarity(means[one] - centre, means[other] - centre, dim=0)
            found[space][kind].append(float(value))
    for kind, one, other in _found_pairs(words, pairs):
        values = [
            1 - edit_counts(first, second).errors / max(len(first), len(second), 1)
            for first in words[one].units
            for second in words[other].units
        ]
        found["units"][kind].append(float(np.mean(values)))
    return found


def _found_pairs(words: dict[str, Word], pairs: Pairs) -> list[tuple[str, str, str]]:
    lowered = [(kind, one.lower(), other.lower()) for kind in KINDS for one, other in pairs[kind]]
    return [(kind, one, other) for kind, one, other in lowered if one in words and other in words]


def gap(found: Similarities) -> dict[str, float]:
    """Space -> mean similarity of pairs alike in sound minus that of pairs alike in meaning.

    Raises:
        ValueError: a kind without a single pair.
    """
    for kind in KINDS:
        if any(not kinds[kind] for kinds in found.values()):
            raise ValueError(f"expected words of pairs alike in {kind} in the replies, found none; list others")
    return {space: float(np.mean(kinds["sound"]) - np.mean(kinds["meaning"])) for space, kinds in found.items()}


@dataclass(frozen=True)
class Gap:
    """The gap of a space.

    Attributes:
        mean: mean similarity of pairs alike in sound minus that of pairs alike in meaning.
        low, high: its 95 % bootstrap interval over pairs of both kinds.
        p: permutation test over pairs, two-sided: how often kinds dealt by chance differ as much.
    """

    mean: float
    low: float
    high: float
    p: float


def tested_gap(found: Similarities) -> dict[str, Gap]:
    """Space -> gap with interval and test; pairs are what is drawn, the checkpoint is taken as it is.

    Raises:
        ValueError: as :func:`gap`.
    """
    return {space: _tested(mean, found[space]) for space, mean in gap(found).items()}


def _tested(mean: float, kinds: dict[str, list[float]]) -> Gap:
    rng = np.random.default_rng(0)
    drawn = {kind: rng.choice(values, (2000, len(values))).mean(1) for kind, values in kinds.items()}
    low, high = np.percentile(drawn["sound"] - drawn["meaning"], [2.5, 97.5])
    return Gap(mean, float(low), float(high), permutation_of_groups(kinds["sound"], kinds["meaning"]))


def draw_gap(checkpoints: dict[str, Similarities], path: Path) -> None:
    """A panel per checkpoint (name -> :func:`similarities`): every pair a dot in every space, means as bars.

    Below each space stand its gap with its 95 % interval and the p of the permutation test; bars have 95 % intervals of
    their means.
    """
    from matplotlib.figure import Figure

    picture = Figure(figsize=(6.2 * len(checkpoints), 4.4), layout="constrained")
    axes = picture.subplots(1, len(checkpoints), sharey=True, squeeze=False)[0]
    scatter = np.random.default_rng(0)
    colors = {"meaning": "#2f6690", "sound": "#d1495b"}
    for axis, (name, found) in zip(axes, checkpoints.items(), strict=True):
        gaps = tested_gap(found)
        for place, kinds in enumerate(found.values()):
            for side, kind in ((-0.2, "meaning"), (0.2, "sound")):
                values = kinds[kind]
                axis.bar(
                    place + side,
                    np.mean(values),
                    width=0.36,
                    yerr=_whiskers(values),
                    error_kw={"elinewidth": 1, "capsize": 2},
                    color=colors[kind],
                    alpha=0.45,
                    label=f"alike in {kind}" if place == 0 else None,
                )
                axis.plot(
                    place + side + scatter.uniform(-0.1, 0.1, len(values)),
                    values,
                    ".",
                    color=colors[kind],
                    markersize=4,
                )
        axis.set_xticks(range(len(found)), [_label(space, gaps[space]) for space in found], fontsize=8)
        axis.axhline(0, color="0.6", linewidth=0.8)
        axis.set_title(name)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("similarity")
    axes[0].legend(loc="upper left", fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.savefig(path, dpi=110)


def _whiskers(values: list[float]) -> list[list[float]]:
    interval = bootstrap(values, bounds=DIFFERENCE)  # of a cosine, too
    return [[interval.mean - interval.low], [interval.high - interval.mean]]


def _label(space: str, gap: Gap) -> str:
    p_value = "p < .001" if gap.p < 0.001 else f"p {gap.p:.3f}"
    return f"{space}\n{gap.mean:+.2f}\n({gap.low:+.2f} to {gap.high:+.2f})\n{p_value}"
