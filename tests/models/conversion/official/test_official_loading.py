"""Official folders are checked before they are read, load like any model, and convert without changing a bit."""

import json
import shutil
import struct

import numpy as np
import pytest
import torch
from huggingface_hub.errors import EntryNotFoundError
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
from typer.testing import CliRunner

from echox.api import EchoX
from echox.audio import save_audio
from echox.cli.main import app
from echox.models.conversion import hub_files
from echox.models.conversion.checkpoint import open_checkpoint, open_weights
from echox.models.conversion.load import OFFICIAL_CHAT_TEMPLATE, load_official
from echox.models.conversion.materialise import materialise
from echox.models.conversion.official import LLAMA_FIELDS, is_official, open_official
from echox.models.unit_language.tokenization_unit_language import UnitLanguage
from echox.models.unit_language.tokenization_unit_pieces import UnitPieces, unit_language_of
from official_files import (
    golden_json,
    golden_tensors,
    in_memory,
    needs_golden,
    release_weights,
    released_model,
    write_release,
    write_tokenizer,
    write_vocoder,
    write_whisper,
)

needs_golden()
AUDIO_ID = golden_json("weights_info")["audio_patch_token"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A whole release: weights, Whisper, vocoder, tokenizer."""
    folder = write_release(tmp_path_factory.mktemp("official") / "release", release_weights())
    write_vocoder(folder / "vocoder", "F_vocoder")
    return write_tokenizer(folder)


@pytest.fixture(scope="module")
def converted(folder, tmp_path_factory):
    target = tmp_path_factory.mktemp("ours") / "model"
    result = CliRunner().invoke(app, ["convert", str(folder), str(target)])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["folder"] == str(target)
    assert f"\n# {target.name}\n" in (target / "README.md").read_text(encoding="utf-8")
    return target


@pytest.fixture(scope="module")
def model(folder):
    return EchoX.from_pretrained(folder, device="cpu")


def changed(folder, tmp_path, change=None, name="model.safetensors", **config):
    """A copy of the release with other weights or another configuration."""
    copy = tmp_path / "changed"
    shutil.copytree(folder, copy, ignore=lambda _, names: [one for one in names if one == name])
    weights = load_file(folder / name)
    if change is not None:
        change(weights)
    save_file(weights, copy / name)
    values = json.loads((copy / "config.json").read_text(encoding="utf-8")) | config
    (copy / "config.json").write_text(json.dumps(values), encoding="utf-8")
    return copy


def question():
    return golden_tensors("F_e2e")["wav_int16"].float().numpy() / 32768


# --------------------------------------------------------------------------------------------------- loading


@pytest.mark.parametrize("name", ["EchoX", "ACLlama"])
def test_either_name_is_recognised(folder, tmp_path, name):
    copy = tmp_path / "model"
    copy.mkdir()
    values = golden_json("config") | {"model_type": name, "architectures": [f"{name}ForCausalLM"]}
    (copy / "config.json").write_text(json.dumps(values), encoding="utf-8")
    assert is_official(copy)


def test_a_model_of_ours_is_not_official(converted):
    assert not is_official(converted)


def test_one_code_for_both_kinds(model, converted):
    """The same user code, and the same bits, whether the release was converted or not."""
    ours = EchoX.from_pretrained(converted, device="cpu")
    expected, found = model.model.state_dict(), ours.model.state_dict()
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        assert torch.equal(value, found[name]), name
    assert ours.model.config.compatible == model.model.config.compatible
    assert ours.model.config.compatible.frame_wise_adapter
    assert ours.model.config.echo_decoder_config.prompt_suffix_ids
    assert ours.settings == model.settings
    assert ours.model.config.system_prompt == model.model.config.system_prompt
    texts = []
    for echox in (model, ours):
        reply = echox.generate(question(), max_new_tokens=8, temperature=0.0, seed=3, speak=False)
        texts.append((reply.heard, reply.text))
    assert texts[0] == texts[1]
    units = torch.tensor([[1, 5, 9, 9, 3]])
    assert torch.equal(model.model.vocoder(units).waveform, ours.model.vocoder(units).waveform)


@pytest.mark.slow
def test_reply_command(folder, tmp_path):
    """The random fixture never ends a segment: it is spoken up to the repetition, which is reported."""
    save_audio(tmp_path / "question.wav", question(), 16000)
    arguments = ["reply", str(tmp_path / "question.wav"), "--model", str(folder), "--json", "--temperature", "0"]
    result = CliRunner().invoke(app, [*arguments, "--output", str(tmp_path / "reply.wav"), "--device", "cpu"])
    assert result.exit_code == 0, result.output
    assert (tmp_path / "reply.wav").stat().st_size > 44
    assert json.loads(result.stdout.strip().splitlines()[-1])["text"]


def test_prompt_is_the_references(model):
    """Section 6 of FORMAT.md: BOS before every piece, a new line where it has one."""
    ids = model.processor.tokenizer.convert_tokens_to_ids
    bos, eot = ids("<|begin_of_text|>"), ids("<|eot_id|>")
    start, end, audio = ids("<|start_header_id|>"), ids("<|end_header_id|>"), ids("<audio_patch>")

    def text(words):
        return model.processor.tokenizer(words, add_special_tokens=False)["input_ids"]

    line = text("\n")
    expected = [bos, start, bos, *text("system"), end, bos, *line, bos, *text("be brief"), eot]
    expected += [start, bos, *text("user"), end, bos, *line, audio, bos, *text("hear"), eot]
    expected += [start, bos, *text("assistant"), end, bos, *line, bos, *text("yes"), eot]
    expected += [start, bos, *text("user"), end, bos, *text("typed"), eot]
    expected += [start, bos, *text("assistant"), end, bos, *line]
    messages = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": [{"type": "audio"}, {"type": "text", "text": "hear"}]},
        {"role": "assistant", "content": "yes"},
        {"role": "user", "content": "typed"},
    ]
    found = model.processor.tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=True, return_dict=True
    )
    assert found["input_ids"] == expected
    once = model.processor.tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=True, return_dict=True, repeat_bos=False
    )
    assert once["input_ids"] == [bos, *(one for one in expected if one != bos)]
    assert model.processor.tokenizer.chat_template == OFFICIAL_CHAT_TEMPLATE


def test_every_prompt_begins_as_the_references(model):
    """The scripts of the release send one system turn with every question."""
    assert model.model.config.system_prompt.startswith("You are a helpful language and speech assistant. You are able")


def test_dtype_and_device_map(folder):
    half, _ = load_official(folder, dtype=torch.bfloat16, device_map={"": "cpu"})
    assert half.dtype == torch.bfloat16
    assert {value.dtype for value in half.vocoder.parameters()} == {torch.float32}
    stored = load_file(folder / "model.safetensors")["lm_head.weight"]
    assert torch.equal(half.get_output_embeddings().weight, stored.bfloat16())
    split, _ = load_official(folder, device_map={"s2t": "cpu", "": "cpu"})
    assert split.dtype == torch.float32
    with pytest.raises(ValueError, match="a place for every part"):
        load_official(folder, device_map={"s2t": "cpu"})


def test_tied_heads(folder):
    """A stored head is ignored where the configuration ties it; the unit decoder's head stays its own."""
    weights = release_weights()
    for stored in (dict(weights), {name: value for name, value in weights.items() if name != "lm_head.weight"}):
        model = released_model(stored, tie_word_embeddings=True)
        head = model.get_output_embeddings().weight
        assert head is model.get_input_embeddings().weight
        assert torch.equal(head, weights["model.embed_tokens.weight"])
        assert torch.equal(model.echo_decoder.unit_head.weight, weights["unit_translator.lm_head.weight"])


@pytest.mark.parametrize("prefix", ["", "model."])
def test_whisper_by_its_own_folder(folder, tmp_path, prefix):
    whisper = write_whisper(tmp_path / "whisper", prefix)
    opened = open_official(folder, AUDIO_ID, audio_tower=whisper)
    name = "s2t.audio_tower.conv1.weight"
    assert torch.equal(opened.tensors[name].load(), golden_tensors("whisper_encoder_weights")["encoder.conv1.weight"])


def test_shards_of_both_formats(folder, tmp_path):
    weights = load_file(folder / "model.safetensors")
    names = sorted(weights)
    for suffix, save in (("safetensors", save_file), ("bin", torch.save)):
        copy = tmp_path / suffix
        copy.mkdir()
        stem = "model" if suffix == "safetensors" else "pytorch_model"
        shard_of = {}
        for number, part in enumerate((names[::2], names[1::2])):
            shard = f"{stem}-{number}.{suffix}"
            save({name: weights[name] for name in part}, copy / shard)
            shard_of |= dict.fromkeys(part, shard)
        (copy / f"{stem}.{suffix}.index.json").write_text(json.dumps({"weight_map": shard_of}), encoding="utf-8")
        opened = open_checkpoint(copy)
        assert all(torch.equal(opened[name].load(), value) for name, value in weights.items())
        (copy / shard).unlink()
        with pytest.raises(ValueError, match=f"expected the shard {shard}"):
            open_checkpoint(copy)


# --------------------------------------------------------------------------------------------------- refusing


def refuse(copy, *words):
    """The command fails, names what is wrong, and writes nothing."""
    target = copy.parent / "target"
    result = CliRunner().invoke(app, ["convert", str(copy), str(target)])
    assert result.exit_code == 1
    for word in words:
        assert word in result.output, result.output
    assert not target.exists()
    assert not list(copy.parent.glob(".*partial"))


def test_missing_unexpected_and_misshapen_names_are_all_listed(folder, tmp_path):
    def change(weights):
        weights["model.norm.wait"] = weights.pop("model.norm.weight")
        del weights["unit_translator.adapter.bias"]
        weights["model.out_norm.bias"] = weights["model.out_norm.bias"][:-1].clone()

    refuse(
        changed(folder, tmp_path, change),
        "missing: model.norm.weight, unit_translator.adapter.bias",
        "unexpected: model.norm.wait",
        "misshapen: model.out_norm.bias",
    )


def test_whisper_is_checked_as_strictly(folder, tmp_path):
    def change(weights):
        weights.pop("encoder.conv2.bias")

    broken = write_whisper(tmp_path / "whisper")
    weights = load_file(broken / "model.safetensors")
    change(weights)
    save_file(weights, broken / "model.safetensors")
    with pytest.raises(ValueError, match=r"missing: conv2\.bias"):
        open_official(folder, AUDIO_ID, audio_tower=broken)


@pytest.mark.parametrize("kept", [0.9, 0.001, 0.0])
def test_truncated_shard(folder, tmp_path, kept):
    copy = changed(folder, tmp_path)
    path = copy / "model.safetensors"
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.truncate(int(size * kept))
    refuse(copy, "model.safetensors", "truncated")


def test_truncated_torch_file(tmp_path):
    path = tmp_path / "pytorch_model.bin"
    torch.save({"a": torch.zeros(1000)}, path)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 300)
    with pytest.raises(ValueError, match="download it again"):
        open_weights(path)


def test_a_pickle_is_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    torch.save({"a": Evil()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="torch file of tensors"):
        open_weights(tmp_path / "pytorch_model.bin")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "header",
    [
        b"nonsense",
        b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F99", "shape": [1], "data_offsets": [0, 4]}}',
        b'{"a": {}}',
    ],
)
def test_nonsense_in_a_header(tmp_path, header):
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
    with pytest.raises(ValueError, match=r"model\.safetensors"):
        open_weights(path)


def name_tower(release, tower):
    path = release / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | {"audio_tower": tower}), encoding="utf-8")


@pytest.fixture
def hub(folder, tmp_path, monkeypatch):
    """The release as it is published: the vocoder among its files, the Whisper a path of its authors' machine."""
    repository, snapshot, asked = tmp_path / "repository", tmp_path / "snapshot", []
    shutil.copytree(folder, repository, ignore=shutil.ignore_patterns("vocoder", "whisper"))
    write_vocoder(tmp_path / "published", "F_vocoder")
    (tmp_path / "published" / "g_00500000").rename(repository / "g_00500000")
    (tmp_path / "published" / "config.json").rename(repository / "vocoder_config.json")
    values = json.loads((repository / "config.json").read_text(encoding="utf-8")) | {
        "audio_tower": "./whisper-large-v3"
    }
    (repository / "config.json").write_text(json.dumps(values), encoding="utf-8")

    def download(repo_id, name):
        asked.append(name)
        if not (repository / name).is_file():
            raise EntryNotFoundError("404")
        (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
        return str(shutil.copy(repository / name, snapshot / name))

    monkeypatch.setattr(hub_files, "hf_hub_download", download)
    return asked, repository


def test_a_hub_id_has_all_parts_but_the_whisper(hub, folder):
    asked, _ = hub
    found = open_official("owner/EchoX", AUDIO_ID, audio_tower=folder / "whisper")
    assert found.tensors.keys() == open_official(folder, AUDIO_ID).tensors.keys()
    assert asked[-1] == "model.safetensors", "gigabytes come last"
    with pytest.raises(ValueError, match=r"audio_tower: .* found './whisper-large-v3'.*--audio-tower openai/whisper"):
        open_official("owner/EchoX", AUDIO_ID)


@pytest.mark.parametrize("missing", ["g_00500000", "vocoder_config.json"])
def test_what_is_missing_is_said_before_the_weights_are_fetched(hub, folder, missing):
    asked, repository = hub
    (repository / missing).unlink()
    with pytest.raises(ValueError, match="g_"):
        open_official("owner/EchoX", AUDIO_ID, audio_tower=folder / "whisper")
    assert "model.safetensors" not in asked


@pytest.mark.parametrize("place", ["release/whisper-large-v3", "whisper-large-v3"])
def test_a_whisper_in_the_release_or_beside_it_is_found(folder, tmp_path, place):
    shutil.copytree(folder, tmp_path / "release")
    shutil.copytree(folder / "whisper", tmp_path / place)
    values = json.loads((folder / "config.json").read_text(encoding="utf-8")) | {"audio_tower": "./whisper-large-v3"}
    (tmp_path / "release" / "config.json").write_text(json.dumps(values), encoding="utf-8")
    assert (
        open_official(tmp_path / "release", AUDIO_ID).tensors.keys() == open_official(folder, AUDIO_ID).tensors.keys()
    )


def test_parts_that_do_not_belong(folder, tmp_path):
    refuse(changed(folder, tmp_path, unit_output="pretrain"), "aligner_MLP")
    shutil.rmtree(tmp_path / "changed")
    refuse(changed(folder, tmp_path, adapter_size=1280), "Whisper of width 1280", "found 64")
    shutil.rmtree(tmp_path / "changed")
    refuse(changed(folder, tmp_path, audio_tower=str(tmp_path / "nowhere")), "nowhere", "expected a folder or a hub id")
    shutil.rmtree(tmp_path / "changed")
    copy = changed(folder, tmp_path)
    shutil.rmtree(copy / "vocoder")
    refuse(copy, "g_00500000", "--vocoder")
    shutil.rmtree(copy)
    copy = changed(folder, tmp_path)
    (copy / "tokenizer.json").unlink()
    refuse(copy, "tokenizer.json")


def test_arguments_that_only_the_release_takes():
    with pytest.raises(ValueError, match="vocoder: expected only with the official release"):
        EchoX.from_pretrained("nano", vocoder="somewhere")


# --------------------------------------------------------------------------------------------------- LoRA


def test_peft_folder_is_merged_as_peft_merges_it(tmp_path):
    torch.manual_seed(1)
    values = {name: golden_json("config")[name] for name in LLAMA_FIELDS if name in golden_json("config")}
    base = LlamaForCausalLM(LlamaConfig(**values | {"vocab_size": 50, "bos_token_id": 1, "eos_token_id": 2}))
    weights = {name: value.clone() for name, value in base.state_dict().items()}
    tuned = get_peft_model(
        base,
        LoraConfig(
            r=4,
            lora_alpha=12,
            target_modules=["q_proj", "down_proj"],
            init_lora_weights=False,
            alpha_pattern={"q_proj": 5},
        ),
    )
    tuned.save_pretrained(tmp_path)
    expected = tuned.merge_and_unload().state_dict()
    from echox.models.conversion.peft_folder import merge_peft, open_peft

    merged = merge_peft(in_memory(weights), open_peft(tmp_path))
    for name, value in expected.items():
        torch.testing.assert_close(merged[name].load(), value, atol=1e-6, rtol=0)
    assert not torch.equal(
        expected["model.layers.0.self_attn.q_proj.weight"], weights["model.layers.0.self_attn.q_proj.weight"]
    )
    del weights["model.layers.0.self_attn.q_proj.weight"]
    with pytest.raises(ValueError, match=r"model\.layers\.0\.self_attn\.q_proj\.lora_A\.weight"):
        merge_peft(in_memory(weights), open_peft(tmp_path))


# --------------------------------------------------------------------------------------------------- unit words


@pytest.mark.parametrize("spelling", ["<|unit_{}|>", "<|unit_\u2581{}|>"])
def test_unit_words_whatever_their_spelling(tmp_path, spelling):
    tokenizer = AutoTokenizer.from_pretrained(write_tokenizer(tmp_path, spelling))
    config = golden_json("config")
    count = config["unit_vocab_size"]
    language = unit_language_of(tokenizer, config["vocab_size"], count, num_units=count)
    assert type(language) is UnitLanguage
    assert [language.words[unit] for unit in (0, 17, count - 1)] == [(0,), (17,), (count - 1,)]
    assert language.decode([3, 12, 3]) == [3, 12, 3]
    partial = unit_language_of(tokenizer, config["vocab_size"], count, num_units=count + 1)
    assert isinstance(partial, UnitPieces)
    with pytest.raises(ValueError, match="unit words at the ids"):
        unit_language_of(tokenizer, config["vocab_size"], count + 1, num_units=count)
    with pytest.raises(ValueError, match=r"tokens like <\|unit_12"):
        unit_language_of(tokenizer, 300, count, num_units=count)


def test_materialise_refuses_what_it_was_not_given(folder):
    opened = open_official(folder, AUDIO_ID)
    del opened.tensors["denoising_adapter.up_proj.bias"]
    with pytest.raises(ValueError, match=r"denoising_adapter\.up_proj\.bias: expected its weights"):
        materialise(opened.config, opened.tensors, torch.float32)


def test_silence_fills_the_window(model):
    inputs = model.processor.extract_features([np.ones(16000, np.float32)], 16000, whole_windows=True)
    assert inputs["input_features"].shape[2] == 3000
    inputs = model.processor.extract_features([np.ones(31 * 16000, np.float32)], 16000, whole_windows=True)
    assert inputs["input_features"].shape[2] == 6000
