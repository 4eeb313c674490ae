"""Stage III: what is trained, alignment of states and tokens, online pseudo-labels, segments."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from echox.audio import save_audio
from echox.config import TrainingConfig
from echox.data.manifest import Dialogue, Turn, write_dialogues
from echox.models.echox.modeling_echox import EchoXForConditionalGeneration
from echox.models.echox.modeling_s2t import S2TForConditionalGeneration
from echox.models.echox.processing_echox import EchoXProcessor
from echox.models.t2c.modeling_t2c import T2CForUnitGeneration
from echox.models.vocoder.configuration_vocoder import LightVocoderConfig
from echox.models.vocoder.modeling_light_vocoder import LightVocoder
from echox.streaming.reply_text.trigger import Trigger
from echox.training.control.health import check_gradients, check_trainable
from echox.training.memory.of_recipe import frozen_dtype
from echox.training.networks.lora import LoRASettings, add_lora, merged_state_dict, save_lora
from echox.training.stage import Stage
from echox.training.stages.dialogue.continued import load_vocoder
from echox.training.stages.speaking import echo_objective
from echox.training.stages.speaking.echo import EchoData, EchoModel, EchoRecipe, EchoTargets, EchoWeights
from echox.training.stages.speaking.echo_targets import RecordedTargets, cut_replies, select
from echox.training.stages.speaking.echo_teacher import OnlineTargets
from echox.training.stages.speaking.label_cache import LabelCache
from echox.training.stages.speaking.t2c import spoken_text
from test_t2c import stage_recipe as t2c_recipe
from tiny_speaker import NUM_UNITS, REPLIES, tiny_echox_config, write_world

TRIGGER = Trigger(min_tokens=3, max_tokens=30, lookahead_tokens=1, threshold=0.2)


def teach_language_model(folder: Path) -> None:
    """The tiny language model learns its six replies by heart, so that what it says is the reference."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    texts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": f"Tell me {n}."}, {"role": "assistant", "content": reply}], tokenize=False
        )
        for n, reply in enumerate(REPLIES)
    ]
    batch = tokenizer(texts, add_special_tokens=False, padding=True, padding_side="right", return_tensors="pt")
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(60):
        loss = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.save_pretrained(folder)


def write_s2t(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder / "lm")
    language_model = AutoModelForCausalLM.from_pretrained(folder / "lm")
    config = tiny_echox_config().s2t_config
    config.text_config = language_model.config
    config.audio_config.num_mel_bins = 80
    config.audio_token_id = tokenizer.convert_tokens_to_ids("<|audio|>")
    torch.manual_seed(0)
    model = S2TForConditionalGeneration(config)
    model.language_model = language_model
    settings = LoRASettings(r=2, alpha=4, dropout=0.0)
    for value in add_lora(model.language_model, settings):
        torch.nn.init.normal_(value, std=0.01)
    model.save_pretrained(folder / "s2t", state_dict=merged_state_dict(model))
    save_lora(model, settings, folder / "s2t")
    tokenizer.save_pretrained(folder / "s2t")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Stages lm, s2t, t2c and a vocoder, all tiny; two spoken and six written dialogues."""
    folder = write_world(tmp_path_factory.mktemp("world"))
    teach_language_model(folder / "lm")
    write_s2t(folder)
    t2c_recipe(folder).build().save(folder / "t2c")
    sizes = dict.fromkeys(("unit_hidden_size", "unit_intermediate_size", "hidden_size", "intermediate_size"), 8)
    LightVocoder(LightVocoderConfig(num_units=NUM_UNITS, num_mel_bins=20, fft_size=512, **sizes)).save_pretrained(
        folder / "vocoder"
    )
    (folder / "speech").mkdir()
    noise = np.random.default_rng(0)
    spoken = []
    for number in range(3):
        save_audio(folder / "speech" / f"{number}.wav", noise.normal(0, 0.1, 8000).astype(np.float32), 16000)
        turns = (
            Turn("user", text=f"Tell me {number}.", audio=f"{number}.wav"),
            Turn("assistant", text=REPLIES[number]),
        )
        spoken.append(Dialogue(f"s{number}", turns, split="train" if number < 2 else "heldout_seen_voices"))
    write_dialogues(folder / "speech" / "dialogues.jsonl", spoken)
    return folder


def echo_recipe(world, steps=30, source="online", **values) -> EchoRecipe:
    parts = {"data": {}, "model": {}, "weights": {}} | values
    rates = {"echo_decoder": 1e-2, "denoising_adapter": 1e-2, "lora": 1e-3}
    if not parts["model"].get("train_lora", True):
        rates.pop("lora")
    return EchoRecipe(
        "echo",
        EchoData(**({"text": [str(world / "dialogues.jsonl")], "audio_fraction": 0.0} | parts["data"])),
        EchoModel(**({"s2t": str(world / "s2t"), "t2c": str(world / "t2c")} | parts["model"])),
        TRIGGER,
        TrainingConfig(
            output_dir=str(world / "echo"), steps=steps, batch_size=5, learning_rates=rates, precision="fp32"
        ),
        EchoWeights(**parts["weights"]),
        EchoTargets(source=source),
    )


@pytest.mark.parametrize("fused", [False, True])
def test_an_echo_decoder_that_spells_learns_from_a_teacher_that_spells(world, tmp_path, fused):
    """Its loss falls, and what was saved speaks alike."""
    recipe = t2c_recipe(world)
    recipe.model.options["max_word_letters"] = 10
    recipe.build().save(tmp_path / "t2c")
    stage = echo_recipe(world, model={"t2c": str(tmp_path / "t2c"), "fuse_text_embeddings": fused}).build()
    groups = stage.parameter_groups()
    optimizer = torch.optim.AdamW([value for values in groups.values() for value in values], lr=3e-3)
    losses = []
    for _ in range(6):
        losses.append(stage.objective.train()(batch_of(stage))["echo_loss"])
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < losses[0]
    stage.save(tmp_path / "echo")
    loaded = EchoXForConditionalGeneration.from_pretrained(tmp_path / "echo").eval()
    stage.objective.eval()
    with torch.inference_mode():
        _, states, ids, _ = stage.objective.reply_states(batch_of(stage))
        segments = stage.objective.cut(ids, stage.objective.trigger_scores(states))
        asked = segments.of(states), segments.token_ids, segments.word_ids
        said, again = (
            model.generate_unit_words(*asked, word_letters=segments.word_letters)
            for model in (stage.model.eval(), loaded)
        )
    assert said == again


def batch_of(stage, count=5):
    return stage.collate(list(stage.dataset())[:count], random.Random(0))


def test_only_trainable_parts_move(world):
    stage = echo_recipe(world, model={"fuse_text_embeddings": True}).build()
    assert isinstance(stage, Stage)
    assert stage.model.s2t.audio_tower.config._attn_implementation == "sdpa", "frozen: never the quadratic one"
    groups, config = stage.parameter_groups(), stage.recipe.training
    check_trainable("echo", stage.objective, groups, config)
    before = {name: value.clone() for name, value in stage.objective.named_parameters()}
    optimizer = torch.optim.AdamW([value for values in groups.values() for value in values], lr=1e-2)
    stage.objective.train()
    stage.objective(batch_of(stage))["loss"].backward()
    check_gradients("echo", stage.objective, groups, 1)
    assert all(value.grad is not None for name in ("echo_decoder", "denoising_adapter") for value in groups[name])
    optimizer.step()
    moved = {name for name, value in stage.objective.named_parameters() if not torch.equal(value, before[name])}
    allowed = ("model.echo_decoder.", "model.denoising_adapter.", "model.embedding_gate.")
    assert moved
    assert all(name.startswith(allowed) or ".lora_" in name for name in moved)
    assert not any(name.startswith("t2c.") for name in moved)


def test_states_predict_their_tokens(world):
    """The tiny model knows its replies by heart: the selected states' own words are the reference, token by token."""
    stage = echo_recipe(world).build()
    stage.objective.eval()
    batch = batch_of(stage)
    _, _, said, agreement = stage.objective.reply_states(batch)
    assert agreement > 0.99
    texts = [stage.tokenizer.decode([t for t in row if t >= 0], skip_special_tokens=True) for row in said.tolist()]
    assert texts == batch["reply_texts"]


@pytest.mark.parametrize("shift", [-1, 1])
def test_an_off_by_one_is_caught(world, shift, monkeypatch):
    """States at the tokens themselves, or one too early: refused at the first step."""
    stage = echo_recipe(world).build()

    def wrong(states, labels):
        return select(states.roll(shift, dims=1), labels)

    monkeypatch.setattr(echo_objective, "select", wrong)
    with pytest.raises(ValueError, match="states and tokens are not aligned"):
        stage.objective(batch_of(stage))


def test_select_picks_the_state_before_each_label():
    states = torch.arange(2 * 6, dtype=torch.float32).view(2, 6, 1)
    labels = torch.tensor([[-100, -100, 7, 8, 9, -100], [-100, 5, -100, -100, 6, -100]])
    selected, tokens = select(states, labels)
    assert tokens.tolist() == [[7, 8, 9], [5, 6, -1]]
    assert selected[0].flatten().tolist() == [1, 2, 3]
    assert selected[1, :2].flatten().tolist() == [6, 9]


def test_online_labels_together_equal_alone(world):
    stage = echo_recipe(world).build()
    objective = stage.objective.eval()
    t2c = T2CForUnitGeneration.from_pretrained(world / "t2c").eval()
    _, states, reply_ids, _ = objective.reply_states(batch_of(stage))
    segments = cut_replies(reply_ids, objective.trigger_scores(states), TRIGGER, stage.tokenizer)
    together = OnlineTargets(t2c)
    kept, words, word_of = together(segments, {})
    assert len(kept) == len(segments) > 5
    alone = OnlineTargets(t2c, remember=0)
    for row in range(len(segments)):
        _, one, one_of = alone(segments.kept([row]), {})
        count = one.shape[1]
        assert words[row, :count].tolist() == one[0].tolist()
        assert word_of[row, :count].tolist() == one_of[0].tolist()
        assert (words[row, count:] == -100).all()
    assert together.num_known(segments) == len(segments)
    assert alone.num_known(segments) == 0
    again, words_again, _ = together(segments, {})  # now remembered
    assert torch.equal(words, words_again)


def test_labels_in_a_file_are_found_by_other_processes_of_the_same_teacher(world, tmp_path, monkeypatch):
    stage = echo_recipe(world).build()
    objective = stage.objective.eval()
    _, states, reply_ids, _ = objective.reply_states(batch_of(stage))
    segments = cut_replies(reply_ids, objective.trigger_scores(states), TRIGGER, stage.tokenizer)

    def targets(limit: int = 512) -> OnlineTargets:  # each as in a process of its own
        t2c = T2CForUnitGeneration.from_pretrained(world / "t2c").eval()
        return OnlineTargets(t2c, 0, limit, LabelCache(tmp_path / "labels.db", t2c, limit))

    first, second, other = targets(), targets(), targets(limit=1)
    assert second.num_known(segments) == 0
    _, words, word_of = first(segments, {})
    assert second.num_known(segments) == len(segments)
    assert other.num_known(segments) == 0, "another limit is another label"
    monkeypatch.setattr(second.t2c, "generate", None)  # is not asked
    kept, found, found_of = second(segments, {})
    assert len(kept) == len(segments)
    assert torch.equal(found, words)
    assert torch.equal(found_of, word_of)
    other(segments, {})
    with torch.no_grad():
        next(second.t2c.parameters()).add_(1.0)
    changed = LabelCache(tmp_path / "labels.db", second.t2c, 512)
    assert OnlineTargets(second.t2c, 0, 512, changed).num_known(segments) == 0, "another teacher says other things"
    assert len(changed) > len(words)
    (tmp_path / "other.db").write_bytes(b"no database, but long enough to be looked at as one" * 20)
    with pytest.raises(ValueError, match=r"other\.db: expected a cache of labels or no file.*targets\.cache"):
        LabelCache(tmp_path / "other.db", second.t2c, 512)


def test_a_segment_that_the_teacher_does_not_finish_is_decoded_once(world, monkeypatch):
    stage = echo_recipe(world).build()
    objective = stage.objective.eval()
    t2c = T2CForUnitGeneration.from_pretrained(world / "t2c").eval()
    _, states, reply_ids, _ = objective.reply_states(batch_of(stage))
    segments = cut_replies(reply_ids, objective.trigger_scores(states), TRIGGER, stage.tokenizer)
    targets = OnlineTargets(t2c, max_unit_words=1)
    kept, words, _ = targets(segments, {})
    assert len(kept) < len(segments)
    assert targets.num_known(segments) == len(segments)
    monkeypatch.setattr(t2c, "generate", None)  # is not asked again
    kept_again, words_again, _ = targets(segments, {})
    assert kept_again.owners == kept.owners
    assert torch.equal(words, words_again)


def test_the_log_says_how_many_targets_were_known(world):
    stage = echo_recipe(world).build()
    objective, batch = stage.objective.eval(), batch_of(stage)
    assert [float(objective(batch)["targets_known"]) for _ in range(2)] == [0.0, 1.0]


def test_segments_end_at_the_trigger_and_hold_whole_words(world):
    tokenizer = AutoTokenizer.from_pretrained(world / "lm")
    replies = ["The capital of France is Paris. It is a fine city.", "A dog says woof."]
    rows = [tokenizer(text, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id] for text in replies]
    width = max(map(len, rows))
    ids = torch.tensor([row + [-1] * (width - len(row)) for row in rows])
    period = tokenizer(".", add_special_tokens=False)["input_ids"][-1]
    scores = (ids == period).float()
    segments = cut_replies(ids, scores, TRIGGER, tokenizer)
    texts = [tokenizer.decode([t for t in row if t >= 0]).strip() for row in segments.token_ids.tolist()]
    assert texts == ["The capital of France is Paris.", "It is a fine city.", "A dog says woof."]
    for text, words in zip(texts, segments.word_ids.tolist(), strict=True):
        assert [word for word in words if word >= 0][0] == 0
        assert max(words) == len(text.split()) - 1
    assert segments.owners == [(0, 0), (0, 6), (1, 0)]
    flat = ids.flatten()
    real = segments.token_ids >= 0
    assert torch.equal(flat[segments.places][real], segments.token_ids[real])


def test_losses_fall_on_one_batch(world):
    stage = echo_recipe(world).build()
    groups = [
        {"params": values, "lr": 2e-3 if name == "lora" else 1e-2} for name, values in stage.parameter_groups().items()
    ]
    optimizer = torch.optim.AdamW(groups)
    stage.objective.train()
    batch = batch_of(stage)
    history = []
    for _ in range(40):
        losses = stage.objective(batch)
        assert all(torch.isfinite(value) for value in losses.values())
        history.append({name: float(value.detach()) for name, value in losses.items()})
        optimizer.zero_grad()
        losses["loss"].backward()
        optimizer.step()
    assert set(history[0]) >= {"loss", "echo_loss", "denoising_loss", "s2t_loss"}
    for name, part in (("echo_loss", 0.5), ("denoising_loss", 0.5)):
        assert history[-1][name] < part * history[0][name]
    assert history[-1]["s2t_loss"] < 0.5


def test_weights_and_cap_and_mix(world, monkeypatch):
    stage = echo_recipe(world).build()
    objective = stage.objective.eval()
    batch = batch_of(stage)
    with torch.no_grad():
        losses = objective(batch)
        parts = losses["echo_loss"] + losses["denoising_loss"] + losses["s2t_loss"]
        torch.testing.assert_close(losses["loss"], parts)
        objective.weights = EchoWeights(echo=2.0, denoising=1.0, s2t=0.0, denoising_cap=0.2)
        capped = objective(batch)
    expected = 2 * capped["echo_loss"] + torch.minimum(0.2 * capped["echo_loss"], capped["denoising_loss"])
    torch.testing.assert_close(capped["loss"], expected, rtol=1e-4, atol=1e-4)
    assert losses["s2t_loss"] < 1
    objective.weights = EchoWeights(mix="released")
    with torch.no_grad():
        speaking = losses["echo_loss"] + losses["denoising_loss"]
        torch.testing.assert_close(objective(batch)["loss"], 2 * speaking + 0.2 * losses["s2t_loss"])
        means = objective._means
        monkeypatch.setattr(objective, "_means", lambda *given: {**means(*given), "s2t_loss": torch.tensor(1.1)})
        torch.testing.assert_close(objective(batch)["loss"], speaking + 1.1)


def test_offline_and_recorded_targets(world):
    for source in ("offline", "recorded"):
        stage = echo_recipe(world, source=source, data={"recordings": str(world / "units.jsonl")}).build()
        losses = stage.objective.train()(batch_of(stage))
        losses["loss"].backward()
        assert losses["segments"] > 0
    targets = stage.objective.targets
    assert isinstance(targets, RecordedTargets)
    with pytest.raises(ValueError, match="targets.source: expected online"):
        echo_recipe(world, source="recorded").build()


def test_recorded_units_follow_the_segments(world):
    stage = echo_recipe(world).build()
    from echox.data.manifest import read_unit_utterances

    recordings = [
        spoken_text(item, stage.tokenizer, stage.language) for item in read_unit_utterances(world / "units.jsonl")
    ]
    text = recordings[0].text
    ids = torch.tensor([recordings[0].token_ids])
    period = stage.tokenizer(".", add_special_tokens=False)["input_ids"][-1]
    segments = cut_replies(ids, (ids == period).float(), TRIGGER, stage.tokenizer)
    kept, words, word_of = RecordedTargets(recordings)(segments, {"reply_texts": [text]})
    assert len(kept) == 2
    joined = [word for row in words.tolist() for word in row if word >= 0]
    assert joined == list(recordings[0].unit_words)
    assert [row[0] for row in word_of.tolist()] == [0, 0]
    none, empty, _ = RecordedTargets([])(segments, {"reply_texts": [text]})
    assert len(none) == empty.numel() == 0


def test_speech_and_text_in_proportion(world):
    stage = echo_recipe(
        world, data={"speech": [str(world / "speech" / "dialogues.jsonl")], "audio_fraction": 0.4}
    ).build()
    assert [len(item.rows) for item in stage.dataset()] == [1, 1, 0, 0, 0]
    losses = stage.objective.train()(stage.collate(list(stage.dataset()), random.Random(0)))
    losses["loss"].backward()
    only = echo_recipe(
        world, data={"speech": [str(world / "speech" / "dialogues.jsonl")], "audio_fraction": 1.0}
    ).build()
    assert len(only.dataset()) == 2
    assert len(stage.lengths()) == 5
    with torch.inference_mode():
        metrics = stage.objective.eval() and stage.evaluate()
    wanted = {"speech_heldout_seen_voices_echo_loss", "text_heldout_echo_accuracy", "text_heldout_unit_error"}
    assert wanted <= set(metrics)


def test_frozen_language_model_needs_no_lora(world):
    stage = echo_recipe(world, model={"train_lora": False}).build()
    check_trainable("echo", stage.objective, stage.parameter_groups(), stage.recipe.training)
    stage.objective.train()(batch_of(stage))["loss"].backward()


def test_saves_one_folder_that_speaks(world, tmp_path):
    stage = echo_recipe(world, model={"vocoder": str(world / "vocoder")}).build()
    stage.save(tmp_path)
    model = EchoXForConditionalGeneration.from_pretrained(tmp_path).eval()
    assert not any("lora" in name for name in model.state_dict())
    assert model.config.trigger_min_tokens == 3
    processor = EchoXProcessor.from_pretrained(tmp_path)
    assert len(processor.unit_language) == model.config.echo_decoder_config.num_unit_words
    batch = batch_of(stage)["s2t"]
    with torch.no_grad():
        ours = stage.model.eval().s2t(**batch).last_hidden_state
        torch.testing.assert_close(model.s2t(**batch).last_hidden_state, ours, atol=1e-4, rtol=1e-3)
    t2c = T2CForUnitGeneration.from_pretrained(world / "t2c")
    for name, value in t2c.decoder.state_dict().items():  # the echo decoder starts as the T2C
        torch.testing.assert_close(model.echo_decoder.state_dict()[name], value)
    with torch.inference_mode():
        stage.sample(tmp_path / "samples")
    folder = tmp_path / "samples" / "text_heldout"
    assert json.loads((folder / "units.jsonl").read_text().splitlines()[0])["text"].strip() == "A dog says woof."
    assert (folder / "00.wav").exists()


def test_a_whole_model_gives_all_its_parts(world, tmp_path):
    stage = echo_recipe(world, model={"train_lora": False, "vocoder": str(world / "vocoder")}).build()
    whole = str(tmp_path / "echo")
    stage.save(tmp_path / "echo")
    again = echo_recipe(world, model={"train_lora": False, "s2t": whole, "t2c": whole, "vocoder": whole}).build()
    for name, value in stage.objective.t2c.state_dict().items():  # untrained, the echo decoder is the T2C's
        assert torch.equal(again.objective.t2c.state_dict()[name], value)
    for part in ("s2t", "vocoder", "echo_decoder"):
        ours, theirs = (one.model.get_submodule(part).state_dict() for one in (stage, again))
        assert all(torch.equal(theirs[name], value) for name, value in ours.items())
    without = echo_recipe(world, model={"train_lora": False}).build()
    without.save(tmp_path / "mute")
    with pytest.raises(ValueError, match="expected a model with a vocoder, found none"):
        load_vocoder(tmp_path / "mute")


def test_another_language_models_t2c_is_refused(world, tmp_path):
    t2c = T2CForUnitGeneration.from_pretrained(world / "t2c")
    with torch.no_grad():
        t2c.text_embedding.weight += 1
    t2c.save_pretrained(tmp_path / "t2c")
    stage = t2c_recipe(world).build()
    stage.language.save_pretrained(tmp_path / "t2c")
    recipe = echo_recipe(world)
    recipe.model.t2c = str(tmp_path / "t2c")
    with pytest.raises(ValueError, match="expected one text embedding"):
        recipe.build()


def test_batches_without_targets_are_refused(world):
    """A model that writes only special tokens is refused; where allowed: no segments, finite losses, gradients."""
    stage = echo_recipe(world).build()
    objective = stage.objective.train()
    objective.targets.reply_ids = lambda own_ids, reference: torch.where(
        reference >= 0, stage.tokenizer.eos_token_id, -1
    )
    with pytest.raises(ValueError, match=r"at least one segment with a target in a batch of 5 replies.*allow_silence"):
        objective(batch_of(stage))
    objective.allow_silence = True
    losses = objective(batch_of(stage))
    losses["loss"].backward()
    assert losses["segments"] == losses["echo_loss"] == 0
    check_gradients("echo", objective, stage.parameter_groups(), 1)


@pytest.mark.parametrize("train_lora", [True, False])
def test_a_language_model_in_half_precision_stays_so_and_is_what_it_was(world, tmp_path, train_lora):
    """Stage I saves it merged with its LoRA; stage III has the base weights again, to the bit, and saves what it read.

    Also where the LoRA is not trained: the memory is that of the estimate (`training/memory/of_recipe.py`).
    """
    loaded = S2TForConditionalGeneration.from_pretrained(world / "s2t", dtype=torch.float32)
    loaded.language_model.to(torch.bfloat16)
    base = {name: value.clone() for name, value in loaded.language_model.state_dict().items()}
    settings = LoRASettings(r=2, alpha=4, dropout=0.0)
    for value in add_lora(loaded.language_model, settings):
        torch.nn.init.normal_(value, std=0.02)
    loaded.save_pretrained(tmp_path, state_dict=merged_state_dict(loaded))
    save_lora(loaded, settings, tmp_path)
    AutoTokenizer.from_pretrained(world / "s2t").save_pretrained(tmp_path)
    t2c = T2CForUnitGeneration.from_pretrained(world / "t2c")
    t2c.copy_text_embedding(base["model.embed_tokens.weight"].float())
    t2c.save_pretrained(tmp_path / "t2c")
    t2c_recipe(world).build().language.save_pretrained(tmp_path / "t2c")
    recipe = echo_recipe(world, model={"train_lora": train_lora})
    recipe.model.s2t, recipe.model.t2c = str(tmp_path), str(tmp_path / "t2c")
    assert frozen_dtype(recipe, tmp_path) == "bfloat16"
    stage = recipe.build()
    assert ("lora" in stage.parameter_groups()) == train_lora
    stage.save(tmp_path / "saved")
    merged, again = (load_file(tmp_path / name / "model.safetensors") for name in (".", "saved"))
    assert all(torch.equal(again[f"s2t.{name}"], value) for name, value in merged.items())
    found = {
        name.replace(".base_layer.", "."): value
        for name, value in stage.model.s2t.language_model.state_dict().items()
        if ".lora_" not in name
    }
    assert all(torch.equal(value, base[name]) and value.dtype == torch.bfloat16 for name, value in found.items())
    for precision in (True, False):
        with torch.autocast("cpu", torch.bfloat16, enabled=precision):
            stage.objective.train()(batch_of(stage))["loss"].backward()
    check_gradients("echo", stage.objective, stage.parameter_groups(), 1)
