"""Dialogues whose replies have recordings: only the user's turns are heard, and nothing is trained on nothing."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
import torch

from echox.audio import save_audio
from echox.data.manifest import Dialogue, Turn, read_dialogues, write_dialogues
from echox.evaluation.sets.heldout import _embed
from echox.evaluation.sets.nano import messages_of
from echox.models.echox.ctc import mean_per_symbol
from echox.training.stages.dialogue.dialogues import spoken_dialogues
from test_echo_stage import batch_of, echo_recipe
from test_echo_stage import world as world
from test_encoder_stage import corpus as corpus
from test_encoder_stage import encoder as encoder
from test_encoder_stage import s2t as s2t


def with_reply_audio(manifest, name: str):
    """The manifest with a recording beside every reply, under another name in the same folder."""
    save_audio(manifest.parent / "reply.wav", np.random.default_rng(7).normal(0, 0.1, 9600).astype(np.float32), 16000)
    dialogues = [
        replace(
            item,
            turns=tuple(
                replace(turn, audio="reply.wav", duration_s=0.6, speaker="voice") if turn.role == "assistant" else turn
                for turn in item.turns
            ),
        )
        for item in read_dialogues(manifest)
    ]
    write_dialogues(manifest.with_name(name), dialogues)
    return manifest.with_name(name)


def test_stage_one_hears_the_user_alone(s2t, corpus):
    manifest = with_reply_audio(corpus / "speech" / "dialogues.jsonl", "with_replies.jsonl")
    recipe = replace(s2t.recipe, data=replace(s2t.recipe.data, manifests=[str(manifest)], text_turns=0.0))
    stage, plain = recipe.build(), replace(s2t.recipe, data=replace(s2t.recipe.data, text_turns=0.0)).build()
    for item in stage.dataset():
        assert {item.dialogue.turns[turn].role for turn in item.rows} == {"user"}
    batch, expected = (one.collate(list(one.dataset()), random.Random(0)) for one in (stage, plain))
    assert batch.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(batch[name], value, msg=name)
    assert (batch["labels"] >= 0).any(dim=1).all(), "every reply is learned"


def test_stage_three_has_segments(world):
    manifest = with_reply_audio(world / "speech" / "dialogues.jsonl", "with_replies.jsonl")
    stage = echo_recipe(world, data={"speech": [str(manifest)], "audio_fraction": 1.0}).build()
    with torch.no_grad():
        losses = stage.objective.eval()(batch_of(stage))
    assert losses["segments"] > 0
    assert losses["echo_loss"] > 0


def test_a_recipe_without_a_heard_turn_is_refused(s2t, corpus):
    manifest = corpus / "speech" / "written.jsonl"
    write_dialogues(manifest, [Dialogue("a", (Turn("user", "Hi."), Turn("assistant", "Hello.", "wav/0.wav", 0.75)))])
    with pytest.raises(
        ValueError, match=r"whose user turns have audio, found none among 1 dialogues \(1 of split train"
    ):
        replace(s2t.recipe, data=replace(s2t.recipe.data, manifests=[str(manifest)])).build()


def test_a_dialogue_without_a_reply_is_refused_by_id(tmp_path):
    write_dialogues(tmp_path / "d.jsonl", [Dialogue("open", (Turn("user", "Hi."),))])
    with pytest.raises(ValueError, match=r"d.jsonl: open: expected the last turn to be the assistant's"):
        spoken_dialogues(tmp_path / "d.jsonl", None)


def test_evaluation_hears_the_user_alone_too(corpus, tmp_path):
    manifest = with_reply_audio(corpus / "speech" / "dialogues.jsonl", "with_replies.jsonl")
    several = next(item for item in read_dialogues(manifest) if len(item.turns) > 2)
    contents = [message["content"] for message in messages_of(several, manifest)]
    assert [isinstance(content, list) for content in contents] == [True, False, True]
    embedded = _embed(several, manifest, tmp_path)
    assert [turn.audio is not None for turn in embedded.turns] == [True, False, True, False]


def test_audio_without_a_transcript_teaches_no_transcript():
    labels = torch.tensor([[4, 5], [-100, -100]])
    assert mean_per_symbol(torch.tensor([6.0, 8.0]), labels) == 3.0
    assert mean_per_symbol(torch.tensor([8.0]), labels[1:]) == 0.0
