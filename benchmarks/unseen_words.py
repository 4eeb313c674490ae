"""How a T2C pronounces words that training never met: phones of espeak-ng in place of the units of a voice.

Trains a small word-synchronous T2C on random rows of words of some texts, for a number of CPU seconds, and says 500
other words. Needs espeak-ng (Debian package) and a language model's folder for tokenizer and embeddings.

python benchmarks/unseen_words.py --language-model out/mini/language_model --texts questions/*.txt
python benchmarks/unseen_words.py ... --max-word-letters 0       # tokens alone
"""

from __future__ import annotations

import argparse
import random
import re
import subprocess
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from harness import Measured, run
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from echox.data.manifest import UnitUtterance
from echox.data.scoring import edit_counts
from echox.models.t2c.modeling_t2c import T2CForUnitGeneration
from echox.models.text.text_embeddings import text_embedding_table
from echox.models.unit_language.tokenization_unit_language import UnitLanguage
from echox.training.stages.speaking.t2c import T2CModel, read_batch, spoken_batch, spoken_text

HELD_OUT, ROW = 500, 6
"""Words that are never trained on, and words of a row of training."""


@dataclass
class Score:
    """Of some words: the share that is right, and edits per phone."""

    right: float
    phone_error: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--language-model", required=True, help="folder of its tokenizer and embeddings")
    parser.add_argument("--texts", nargs="+", type=Path, required=True, help="text files that the words come from")
    parser.add_argument("--words", type=int, default=8000, help="the most frequent ones (default: 8000)")
    parser.add_argument("--seconds", type=float, default=100.0, help="CPU seconds of training (default: 100)")
    parser.add_argument("--max-word-letters", type=int, default=32, help="0: tokens alone (default: 32)")
    parser.add_argument("--word-token-dropout", type=float, default=0.0, help="see UnitDecoderConfig (default: 0)")
    parser.add_argument("--letter-layers", type=int, default=2, help="convolutions over the letters (default: 2)")
    parser.add_argument("--batch-size", type=int, default=8, help="rows (default: 8)")
    parser.add_argument("--learning-rate", type=float, default=1.5e-3, help="of AdamW (default: 1.5e-3)")


def pronounced(files: Sequence[Path], count: int) -> dict[str, list[str]]:
    """Phones of the most frequent words of some texts, in random order."""
    text = " ".join(file.read_text(encoding="utf-8", errors="replace") for file in files)
    words = [word for word, _ in Counter(re.findall(r"[a-z]+", text.lower())).most_common(count)]
    random.Random(0).shuffle(words)
    command = ["espeak-ng", "-v", "en-us", "-q", "-x", "--sep= "]
    spoken = subprocess.run(command, input="\n".join(words), capture_output=True, text=True, check=True).stdout
    lines = spoken.strip("\n").split("\n")
    if len(lines) != len(words):
        raise ValueError(f"espeak-ng: expected a line for each of {len(words)} words, found {len(lines)}")
    phones = {
        word: [phone.strip("',") for phone in line.split() if phone.strip("',")]  # without stress
        for word, line in zip(words, lines, strict=True)
    }
    return {word: said for word, said in phones.items() if said}


class Words:
    """Rows of words as training items, with phones as units."""

    def __init__(self, phones: dict[str, list[str]], language_model: str) -> None:
        inventory = sorted({phone for said in phones.values() for phone in said})
        place = {phone: number for number, phone in enumerate(inventory)}
        self.units = {word: tuple(place[phone] for phone in said) for word, said in phones.items()}
        self.language = UnitLanguage([(unit,) for unit in range(len(inventory))], [0.0] * len(inventory))
        self.tokenizer = AutoTokenizer.from_pretrained(language_model)

    def batch(self, rows: Sequence[Sequence[str]], max_word_letters: int) -> dict[str, Tensor]:
        """Rows as `spoken_batch` has them."""
        items = []
        for row in rows:
            units = [(unit, place) for place, word in enumerate(row) for unit in self._said(word)]
            of = tuple(place for _, place in units)
            said = UnitUtterance("row", " ".join(row), tuple(unit for unit, _ in units), (1,) * len(units), of)
            items.append(spoken_text(said, self.tokenizer, self.language))
        return spoken_batch(items, max_word_letters)

    def _said(self, word: str) -> list[int]:
        """Reduced units never repeat; neither do phones here."""
        units = self.units[word]
        return [unit for place, unit in enumerate(units) if not place or unit != units[place - 1]]

    @torch.no_grad()
    def score(self, model: T2CForUnitGeneration, words: Sequence[str]) -> Score:
        """Say words in rows of five."""
        model.eval()
        rows = [words[start : start + 5] for start in range(0, len(words), 5)]
        right = errors = phones = 0
        for start in range(0, len(rows), 32):
            part = rows[start : start + 32]
            sequences = read_batch(model, self.batch(part, model.config.max_word_letters))
            for row, sequence in zip(part, sequences, strict=True):
                for place, word in enumerate(row):
                    said = [unit for unit, of in zip(sequence.unit_words, sequence.word_of, strict=True) if of == place]
                    right += said == self._said(word)
                    errors += edit_counts(self._said(word), said).errors
                    phones += len(self._said(word))
        return Score(right / len(words), errors / phones)


def measure(options: argparse.Namespace) -> Measured:
    phones = pronounced(options.texts, options.words)
    words = Words(phones, options.language_model)
    held_out, known = list(phones)[:HELD_OUT], list(phones)[HELD_OUT:]
    table = text_embedding_table(AutoModelForCausalLM.from_pretrained(options.language_model).get_input_embeddings())
    sizes: dict[str, object] = {
        "max_unit_words_per_word": 48,
        "max_word_letters": options.max_word_letters,
        "num_letter_layers": options.letter_layers,
        "word_token_dropout": options.word_token_dropout,
    }
    vocabulary, width = table.shape
    model = T2CForUnitGeneration(T2CModel(options=sizes).configuration(width, vocabulary, len(words.language)))
    model.copy_text_embedding(table.float())
    model.text_embedding.requires_grad_(False)
    model.set_attn_implementation("eager")  # at these lengths its backward pass is faster on CPUs
    steps = train(model, words, known, options)
    scores = {"unseen": words.score(model, held_out), "seen": words.score(model, known[: HELD_OUT // 2])}
    return Measured({"steps": steps, **{name: asdict(score) for name, score in scores.items()}})


def train(model: T2CForUnitGeneration, words: Words, known: Sequence[str], options: argparse.Namespace) -> int:
    """Train for the given CPU seconds, like stage t2c; returns the number of steps."""
    weights = list(model.decoder.parameters())
    optimizer = torch.optim.AdamW(weights, options.learning_rate, betas=(0.9, 0.97), weight_decay=0.01)
    rng, began_s, steps = random.Random(0), time.process_time(), 0
    while (share := (time.process_time() - began_s) / options.seconds) < 1:
        factor = min(1.0, (steps + 1) / 100) * (1.0 if share < 0.4 else max(0.01, (1 - share) / 0.6))
        for group in optimizer.param_groups:
            group["lr"] = options.learning_rate * factor
        rows = [rng.sample(known, ROW) for _ in range(options.batch_size)]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = model(**words.batch(rows, options.max_word_letters)).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        steps += 1
    return steps


if __name__ == "__main__":
    run(__doc__, add_arguments, measure)
