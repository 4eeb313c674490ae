"""Can one hold a conversation with a model? Held-out wordings, names and numbers, in writing or aloud.

    python benchmarks/conversation.py --model mini --conversations 150
    python benchmarks/conversation.py --model out/mini/package_talk --conversations 80 --beside
    python benchmarks/conversation.py --model mini --conversations 40 --voice flite/rms

Conversations of one to some exchanges (`echox.data.corpora.talk`, split "heldout"): small talk, what users tell of
themselves and ask for later, what a model cannot know, small sums, and nano's held-out questions in between. Each reply
is the model's own, also where the next one depends on it. A reply to small talk is *as taught* if it is one of those
that fit the topic; a told fact or a sum is *right* if the reply contains it; to what was never told, only a reply that
says so is right. `--beside` plays the same conversations with the model without its talk adapter.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from typing import Any

import numpy as np
from harness import Measured, run

from echox import EchoX
from echox.data.corpora.talk.conversations import Exchange, conversations
from echox.data.engines.engine import Voice
from echox.data.scoring import same_words
from echox.data.synthesis import create_synthesizer
from echox.evaluation.scoring.metrics import exist_match
from echox.evaluation.scoring.nano import contains_words
from echox.evaluation.sets.nano import nano_questions
from echox.evaluation.subjects.local import model_fingerprint

QUESTIONS = 200
"""Of nano's held-out ones, as they are asked in task nano-questions."""


def play(model: EchoX, exchanges: list[Exchange], voice: Voice | None) -> list[str]:
    """What the model replies, exchange by exchange."""
    session, replies = model.session(seed=0, speak=False), []
    for one in exchanges:
        if voice is None:
            question: dict[str, Any] = {"role": "user", "content": one.said}
        else:
            speech = create_synthesizer(voice.engine).synthesize(one.said, voice)
            sound = {"array": speech.waveform, "sampling_rate": speech.sampling_rate}
            question = {"role": "user", "content": [{"type": "audio", "audio": sound}]}
        replies.append(session.reply(question).text)
    return replies


def is_right(one: Exchange, reply: str) -> bool:
    """Whether a reply is right; see the module."""
    if one.kind == "knowledge":
        return exist_match(reply, one.accepted)
    if one.key:
        return contains_words(reply, one.key)
    return any(same_words(fits, reply) for fits in one.accepted)


def figures_of(model: EchoX, played: list[list[Exchange]], voice: Voice | None) -> dict[str, Any]:
    """Shares by kind of exchange, and how long the replies are."""
    right: dict[str, list[bool]] = defaultdict(list)
    lengths: list[int] = []
    started = time.process_time()
    for exchanges in played:
        for one, reply in zip(exchanges, play(model, exchanges, voice), strict=True):
            lengths.append(len(reply.split()))
            right[one.kind].append(is_right(one, reply))
    seconds = time.process_time() - started
    return {
        "exchanges": len(lengths),
        **{f"{kind}_right": int(sum(found)) for kind, found in sorted(right.items())},
        **{f"{kind}_asked": len(found) for kind, found in sorted(right.items())},
        "reply_words": {"p50": float(np.median(lengths)), "p95": float(np.percentile(lengths, 95))},
        "cpu_s_per_turn": round(seconds / max(1, len(lengths)), 3),
    }


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The benchmark's own."""
    parser.add_argument("--model", default="mini", help="model folder, hub id, 'nano' or 'mini'")
    parser.add_argument("--conversations", type=int, default=150)
    parser.add_argument("--voice", help="speaks the questions, ENGINE/VOICE (default: they are typed)")
    parser.add_argument("--beside", action="store_true", help="also the model without its talk adapter")
    parser.add_argument("--seed", type=int, default=0)


def measure(options: argparse.Namespace) -> Measured:
    """Play them all."""
    model = EchoX.from_pretrained(options.model, device="cpu")
    voice = None if options.voice is None else Voice.of_speaker(options.voice)
    knowledge = [
        Exchange(one.question, "", "knowledge", "nano", one.answers) for one in nano_questions(limit=QUESTIONS)
    ]
    played = list(conversations("heldout", options.conversations, knowledge, options.seed))
    figures = {"with": figures_of(model, played, voice)}
    if options.beside:
        if "talk" not in model.adapters:
            raise ValueError(f"{options.model}: expected a model with a talk adapter, found none; leave out --beside")
        bare = EchoX(model.model, model.processor, model.settings)
        figures["without"] = figures_of(bare, played, voice)
    return Measured({"conversations": len(played), **figures}, model_fingerprint(model))


if __name__ == "__main__":
    run(__doc__, add_arguments, measure)
