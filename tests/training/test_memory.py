"""Memory that is estimated from sizes: what real modules take, and what autograd really keeps."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from transformers import LlamaConfig, WhisperConfig
from typer.testing import CliRunner

from echox.api import EchoX
from echox.cli.main import app
from echox.config import load_recipe
from echox.data.sampling import BucketBatchSampler
from echox.models.echox.configuration_echox import EchoXConfig, S2TConfig
from echox.models.echox.modeling_shrinking import ShrinkingAdapter
from echox.models.quantization.int8_linear import Int8Linear
from echox.models.t2c.configuration_t2c import UnitDecoderConfig
from echox.models.t2c.modeling_t2c import T2CForUnitGeneration
from echox.training.memory import estimate
from echox.training.memory.estimate import (
    OFFLOADED,
    STAGES,
    Workload,
    build_objective,
    build_on_meta,
    cache_bytes,
    causal_training_bytes,
    random_batch,
    training_bytes,
    weight_bytes,
)
from echox.training.memory.of_recipe import workload_of
from echox.training.networks.modules import enable_gradient_checkpointing

SMALL = LlamaConfig(
    vocab_size=64,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=5,
    num_attention_heads=4,
    num_key_value_heads=2,
)


@pytest.fixture(scope="module")
def nano():
    return EchoX.from_pretrained("nano", device="cpu")


def in_memory(model: torch.nn.Module) -> int:
    tensors = {id(value): value.nbytes for value in [*model.parameters(), *model.buffers()]}
    return sum(tensors.values()) + sum(part.memory_bytes for part in model.modules() if isinstance(part, Int8Linear))


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_weights_of_nano_are_what_it_takes(nano, dtype):
    model = nano if dtype == "float32" else EchoX.from_pretrained("nano", device="cpu", dtype=torch.int8)
    estimated = weight_bytes(build_on_meta(nano.model.config), dtype)
    assert sum(estimated.values()) == pytest.approx(in_memory(model.model), rel=0.02)


def test_key_value_memory_is_what_the_cache_takes(nano):
    ids = torch.ones(1, 50, dtype=torch.long)
    with torch.inference_mode():
        cache = nano.model.s2t.language_model(ids, use_cache=True).past_key_values
    taken = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    assert cache_bytes(nano.model.config, 50)["language_model"] == taken


@pytest.fixture(scope="module")
def tiny():
    """Two layers of everything, and a decoder that speaks word by word."""
    audio = WhisperConfig(
        d_model=16,
        encoder_layers=2,
        encoder_attention_heads=2,
        encoder_ffn_dim=32,
        num_mel_bins=8,
        decoder_layers=0,
        max_source_positions=100,
    )
    s2t = S2TConfig(audio_config=audio, text_config=SMALL, audio_token_id=6, ctc_bridge=True, drop_blanks=True)
    decoder = UnitDecoderConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=48,
        text_hidden_size=32,
        text_vocab_size=64,
        num_unit_words=40,
    )
    return EchoXConfig(s2t_config=s2t, echo_decoder_config=decoder, fuse_text_embeddings=True)


WORK = Workload(batch_size=3, tokens=60, reply_tokens=16, audio_s=1.2, unit_words=40, words=8, lora_rank=4, segments=6)


class Kept:
    """Bytes of what autograd keeps while inside, each storage once, weights left out."""

    def __init__(self, objective: torch.nn.Module) -> None:
        self.weights = {value.untyped_storage().data_ptr() for value in [*objective.parameters(), *objective.buffers()]}
        self.storages: dict[int, torch.UntypedStorage] = {}
        self.hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, lambda value: value)

    def _pack(self, value: torch.Tensor) -> torch.Tensor:
        storage = value.untyped_storage()
        if storage.data_ptr() not in self.weights:
            self.storages[storage.data_ptr()] = storage
        return value

    def bytes(self) -> int:
        return sum(storage.nbytes() for storage in self.storages.values())


@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=pytest.mark.slow)])
@pytest.mark.parametrize("stage", STAGES)
def test_a_step_keeps_what_its_rehearsal_keeps(tiny, stage, precision):
    """The real objective with numbers, against the same one without."""
    torch.manual_seed(0)
    work = replace(WORK, precision=precision)
    objective = build_objective(tiny, stage, work).train()
    batch = random_batch(tiny, stage, work)
    if stage in ("s2t", "echo"):  # untrained encoders keep any number of frames
        work = replace(work, kept_frames=frames_kept(objective, batch, precision))
    with (kept := Kept(objective)).hooks, torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        objective(batch)
    found = training_bytes(tiny, stage, replace(work, tokens=positions(batch, work, stage)))
    assert found["activations"] == pytest.approx(kept.bytes(), rel=0.15)


def frames_kept(objective, batch, precision) -> int:
    seen = []
    shrinking = next(part for part in objective.modules() if isinstance(part, ShrinkingAdapter))
    handle = shrinking.register_forward_hook(lambda _, args, output: seen.append(output[0].shape[1]))
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        objective(batch)
    handle.remove()
    return seen[0]


def positions(batch, work, stage) -> int:
    """Of a row once its audio is in its place."""
    if stage not in ("s2t", "echo"):
        return work.tokens
    return batch.get("s2t", batch)["input_ids"].shape[1] - 1 + work.kept_frames


@pytest.mark.slow
def test_checkpointing_keeps_less_and_batches_keep_more():
    work = Workload(batch_size=2, tokens=64, reply_tokens=8, lora_rank=0)

    def kept(work: Workload) -> float:
        return causal_training_bytes(SMALL, work)["activations"]

    assert kept(replace(work, batch_size=4)) == pytest.approx(2 * kept(work), rel=0.2)
    assert kept(replace(work, gradient_checkpointing=True)) < 0.5 * kept(work)


@pytest.mark.parametrize("stage", ["s2t", "echo"])
def test_checkpointing_leaves_the_frozen_encoder_out_of_the_backward_pass(tiny, stage):
    torch.manual_seed(0)
    objective, batch = build_objective(tiny, stage, WORK).train(), random_batch(tiny, stage, WORK)
    tower = (objective.model if stage == "s2t" else objective.model.s2t).audio_tower
    outputs = []
    tower.register_forward_hook(lambda module, args, output: outputs.append(output.last_hidden_state))
    found = []
    for checkpointed in (False, True):
        if checkpointed:
            enable_gradient_checkpointing(objective)
        torch.manual_seed(1)
        objective.zero_grad()
        objective(batch)["loss"].backward()
        found.append({name: value.grad for name, value in objective.named_parameters() if value.grad is not None})
    assert not any(output.requires_grad for output in outputs)
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_of_nano_has_an_estimate(nano, stage):
    found = training_bytes(nano.model.config, stage, Workload())
    assert found["optimizer"] == 2 * found["trained weights"]
    assert found["backward pass"] > 0


def test_what_cannot_be_is_refused(nano):
    with pytest.raises(ValueError, match="dtype: expected one of float32"):
        weight_bytes(build_on_meta(nano.model.config), "int3")
    with pytest.raises(ValueError, match="stage: expected one of lm"):
        training_bytes(nano.model.config, "sing", Workload())
    with pytest.raises(ValueError, match="tokens: expected a positive number"):
        Workload(tokens=0)


@pytest.mark.slow
def test_commands():
    run = CliRunner().invoke
    result = run(app, ["estimate-memory", "recipes/3b/t2c.yaml", "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["stage"] == "t2c"
    assert found["bytes"]["frozen weights"] == pytest.approx(4 * 128257 * 3072, rel=0.01)
    result = run(app, ["estimate-memory", "nano"])
    assert "s2t.language_model" in result.stdout
    assert "this machine" in result.stdout
    assert "fits" in result.stdout
    result = run(app, ["estimate-memory", "recipes/3b/package.yaml"])
    assert "expected a recipe of one of the stages" in result.output
    result = run(app, ["estimate-memory", "nano", "training.steps=1"])
    assert "overrides: expected a recipe" in result.output
    result = run(app, ["estimate-memory", "absent.yaml"])
    assert result.exit_code == 1
    assert "expected a recipe, found none" in result.output
    result = run(app, ["doctor"])
    assert result.exit_code == 0
    assert "GB free" in result.stdout
    assert "needs         nano" in result.stdout


def test_a_recipe_is_read_as_it_will_be_run(tmp_path):
    """Types of frozen weights come from what the recipe names: a folder, or the recipe that will write it."""
    asked = Workload(tokens=64, reply_tokens=16)
    for size in ("3b", "8b"):
        for stage in ("s2t", "echo"):
            found, work = workload_of(f"recipes/{size}/{stage}.yaml", ["training.batch_by=items"], asked)
            recipe = load_recipe(f"recipes/{size}/{stage}.yaml")
            assert (found, work.frozen_dtype, work.lora_rank) == (stage, "bfloat16", 16)
            assert (work.batch_size, work.audios) == (recipe.training.batch_size,) * 2
            assert work.gradient_checkpointing
    folder = tmp_path / "lm"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"dtype": "float32"}))
    chosen = [f"model.language_model={folder}", "training.batch_size=3", "training.parallel=fsdp", "lora.r=4"]
    chosen.append("training.batch_by=items")
    _, work = workload_of("recipes/8b/s2t.yaml", chosen, asked)
    assert (work.frozen_dtype, work.batch_size, work.parallel, work.lora_rank) == ("float32", 3, "fsdp", 4)
    (tmp_path / "lora.json").write_text(json.dumps({"r": 8, "alpha": 8, "dropout": 0, "base_dtype": "float32"}))
    _, work = workload_of("recipes/8b/echo.yaml", [f"model.s2t={tmp_path}"], asked)
    assert (work.frozen_dtype, work.lora_rank) == ("float32", 8)
    assert workload_of("recipes/nano/s2t.yaml", [], asked)[1].frozen_dtype == "float32"


def test_a_new_ctc_head_may_keep_every_frame_at_first(tmp_path):
    """And one that stage encoder has trained, or will, some seven a second."""
    asked = Workload(tokens=200, reply_tokens=50, audio_s=10)

    def kept(path: str, *overrides: str) -> tuple[int, int]:
        _, work = workload_of(path, list(overrides), asked)
        return work.kept_frames, work.tokens

    trained, new = (70, 200), (250, 380)
    assert kept("recipes/3b/s2t.yaml") == new
    assert kept("recipes/nano/s2t.yaml") == trained, "the recipe beside it writes the encoder"
    assert kept("recipes/nano/s2t.yaml", "model.fresh_adapters=true") == new
    assert kept("recipes/3b/s2t.yaml", "model.aligner=recogniser") == trained
    assert kept("recipes/3b/echo.yaml") == trained
    for kind, expected in (("echox_speech_encoder", trained), ("whisper", new)):
        (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
        assert kept("recipes/3b/s2t.yaml", f"model.speech_encoder={tmp_path}") == expected


@pytest.mark.parametrize("stage", ["s2t", "t2c", "echo"])
@pytest.mark.parametrize("size", ["3b", "8b"])
def test_rows_follow_from_the_total_length(size, stage):
    """As many rows like the one that is asked for as the sampler would put together; at least one."""
    path = f"recipes/{size}/{stage}.yaml"
    training = load_recipe(path).training
    assert training.batch_by == "total_length"
    for audio_s, tokens, unit_words in ((2.0, 60, 20), (15.0, 200, 100), (120.0, 4000, 3000)):
        asked = Workload(tokens=tokens, reply_tokens=tokens // 2, audio_s=audio_s, unit_words=unit_words)
        _, work = workload_of(path, [], asked)
        length = {"s2t": 100 * audio_s, "t2c": unit_words + asked.words, "echo": 100 * audio_s + 40 * asked.words}[
            stage
        ]
        text = tokens - asked.kept_frames
        limit = None if training.max_batch_tokens is None else ([text] * 200, training.max_batch_tokens)
        sampler = BucketBatchSampler([length] * 200, training.batch_size, by="total_length", also=limit)
        assert work.batch_size == work.audios == max(map(len, sampler))


def test_processes_share_what_is_sharded_and_gather_what_is_used(tiny, monkeypatch):
    monkeypatch.setattr(estimate, "step_bytes", lambda *_: (1e6, 3e6))  # of a step, which each process makes alone
    alone = training_bytes(tiny, "s2t", WORK)
    copies = training_bytes(tiny, "s2t", replace(WORK, processes=4))
    assert copies == alone | {"gradient buckets": alone["trained weights"]}
    work = replace(WORK, processes=4, parallel="fsdp")
    shards = training_bytes(tiny, "s2t", work)
    for name in ("trained weights", "frozen weights", "optimizer"):
        assert shards[name] == alone[name] / 4
    assert shards == training_bytes(tiny, "s2t", replace(work, parallel="hybrid")), "over the processes of a machine"
    with torch.device("meta"):
        numbers = sum(value.numel() for value in build_objective(tiny, "s2t", work).parameters())
    assert 0 < shards["gathered weights"] < 2 * numbers, "less than all of them, in bfloat16"
    of_echo = training_bytes(tiny, "echo", work)
    assert of_echo["weights kept whole"] == 4 * sum(
        v.numel() for v in T2CForUnitGeneration(tiny.echo_decoder_config).parameters()
    )
    resting = training_bytes(tiny, "s2t", replace(work, cpu_offload=True))
    assert resting[OFFLOADED] == sum(shards[name] for name in ("trained weights", "frozen weights", "optimizer"))
    assert "optimizer" not in resting


@pytest.mark.slow
def test_the_command_reads_recipe_overrides_and_processes():
    command = ["estimate-memory", "recipes/nano/s2t.yaml", "--tokens", "64", "--audio-s", "1"]
    alone, four = (
        json.loads(CliRunner().invoke(app, [*command, *more, "--json"]).stdout)["bytes"]
        for more in ([], ["training.parallel=fsdp", "training.batch_size=2", "--processes", "4"])
    )
    assert four["optimizer"] == alone["optimizer"] / 4
    assert four["activations"] < alone["activations"] / 4
