"""Adapters saved separately and merged, 8-bit weights, the model card, the upload."""

from __future__ import annotations

import base64
import copy
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub import HfApi
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import load_file
from transformers import BitsAndBytesConfig

from echox.api import EchoX
from echox.api.adapters import load_adapter
from echox.models.conversion import hub_files
from echox.models.quantization.int8_linear import Int8Linear, best_kernel
from echox.models.quantization.row_int8 import from_row_int8, to_row_int8
from tiny_echox import tiny_echox
from tolerance import assert_equal_up_to_rounding

peft = pytest.importorskip("peft")
IDS = torch.tensor([[5, 60, 70, 80, 90, 100]])


def logits(model) -> torch.Tensor:
    with torch.inference_mode():
        return model.model.s2t.language_model(IDS).logits


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A model's folder, and an adapter trained elsewhere with peft alone: ``(folder, adapter, its logits)``."""
    folder, model = tmp_path_factory.mktemp("saved"), tiny_echox()
    model.save_pretrained(folder / "model")
    torch.manual_seed(1)
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj", "down_proj"])
    tuned = peft.get_peft_model(copy.deepcopy(model.model.s2t.language_model), config)
    for name, value in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(value, std=0.1)
    tuned.eval().save_pretrained(folder / "adapter")
    with torch.inference_mode():
        return folder / "model", folder / "adapter", tuned(IDS).logits


def test_an_adapter_of_peft_is_put_on_saved_apart_and_merged(saved, tmp_path):
    folder, adapter, expected = saved
    model = EchoX.from_pretrained(folder, device="cpu", adapter=adapter)
    assert (logits(EchoX.from_pretrained(folder, device="cpu")) - expected).abs().max() > 0.1
    assert_equal_up_to_rounding(logits(model), expected)

    model.save_adapter(tmp_path / "again")
    written, given = (load_file(path / "adapter_model.safetensors") for path in (tmp_path / "again", adapter))
    assert written.keys() == given.keys()
    assert all(torch.equal(written[name], value) for name, value in given.items())
    with pytest.raises(ValueError, match="merge_adapter"):
        model.save_pretrained(tmp_path / "half")

    model.merge_adapter()
    torch.testing.assert_close(logits(model), expected, atol=1e-4, rtol=1e-4)
    model.save_pretrained(tmp_path / "merged")
    assert_equal_up_to_rounding(logits(EchoX.from_pretrained(tmp_path / "merged", device="cpu")), logits(model))
    other = EchoX.from_pretrained(folder, device="cpu", adapter=tmp_path / "again")
    assert_equal_up_to_rounding(logits(other), expected)


def test_wrong_adapters_are_refused(saved, tmp_path):
    folder, adapter, _ = saved
    model = EchoX.from_pretrained(folder, device="cpu")
    for call in (model.merge_adapter, lambda: model.save_adapter(tmp_path)):
        with pytest.raises(ValueError, match="expected an adapter that is not merged, found none"):
            call()
    with pytest.raises(ValueError, match=r"expected adapter_config\.json"):
        EchoX.from_pretrained(folder, device="cpu", adapter=tmp_path)
    config = json.loads((adapter / "adapter_config.json").read_text())
    for name, change in {"rank": {"r": 3}, "modules": {"target_modules": ["no_such_layer"]}}.items():
        wrong = tmp_path / name
        wrong.mkdir()
        (wrong / "adapter_model.safetensors").write_bytes((adapter / "adapter_model.safetensors").read_bytes())
        (wrong / "adapter_config.json").write_text(json.dumps(config | change))
        with pytest.raises(ValueError, match="adapter of this language model"):
            EchoX.from_pretrained(folder, device="cpu", adapter=wrong)


@pytest.mark.parametrize(
    ("kernel", "bound"),  # random weights amplify; what it means for replies is in test_int8_linear.py
    [
        pytest.param(
            "integer", 0.2, marks=pytest.mark.skipif(best_kernel() != "integer", reason="overflows on this CPU")
        ),
        ("weight_only", 0.03),
    ],
)
def test_eight_bits_on_a_cpu(kernel, bound, saved, tmp_path, monkeypatch):
    monkeypatch.setattr("echox.models.quantization.int8_linear.best_kernel", lambda: kernel)
    folder, adapter, expected = saved
    model = EchoX.from_pretrained(folder, device="cpu", dtype=torch.int8)
    layers = [part for part in model.model.modules() if isinstance(part, Int8Linear)]
    assert [layer.kernel for layer in layers] == 2 * 7 * [kernel]
    rounded = EchoX.from_pretrained(folder, device="cpu")
    for part in rounded.model.s2t.language_model.model.layers.modules():
        if isinstance(part, torch.nn.Linear):  # the same 8-bit weights, multiplied as floats
            part.weight.data = from_row_int8(to_row_int8({"weight": part.weight.detach()}))["weight"]
    difference = logits(model) - logits(rounded)
    assert difference.norm() / logits(rounded).norm() < bound
    reply = model.generate([{"role": "user", "content": "What is the sea?"}], temperature=0.0, max_new_tokens=8)
    assert reply.text
    model.save_pretrained(tmp_path / "stored")
    again = EchoX.from_pretrained(tmp_path / "stored", device="cpu", dtype=torch.int8)
    torch.testing.assert_close(logits(again), logits(model), atol=1e-4, rtol=1e-4)


def test_half_precisions_load_and_speak(saved):
    for dtype in (torch.bfloat16, torch.float16):
        model = EchoX.from_pretrained(saved[0], device="cpu", dtype=dtype)
        assert model.model.s2t.language_model.dtype == dtype
        assert model.generate([{"role": "user", "content": "Hello"}], temperature=0.0, max_new_tokens=4).text


def test_what_this_machine_cannot_do_is_said(saved):
    if not find_spec("bitsandbytes"):
        with pytest.raises(ValueError, match=r"BitsAndBytesConfig on cpu, found: .*bitsandbytes.*dtype=torch\.int8"):
            EchoX.from_pretrained(saved[0], device="cpu", quantization_config=BitsAndBytesConfig(load_in_4bit=True))
    with pytest.raises(ValueError, match="expected one of transformers'"):
        EchoX.from_pretrained(saved[0], device="cpu", quantization_config={"load_in_8bit": True})


@pytest.mark.skipif(not find_spec("torchao"), reason="torchao is not installed")
def test_a_config_of_transformers_reaches_the_language_model_only(saved):
    from torchao.quantization import Int8WeightOnlyConfig
    from transformers import TorchAoConfig

    config = TorchAoConfig(Int8WeightOnlyConfig())
    model = EchoX.from_pretrained(saved[0], device="cpu", quantization_config=config)
    kinds = {
        name: type(part.weight).__name__
        for name, part in model.model.named_modules()
        if isinstance(part, torch.nn.Linear)
    }
    changed = {name for name, kind in kinds.items() if kind != "Parameter"}
    assert changed == {name for name in kinds if name.startswith("s2t.language_model.model.layers")}
    plain = logits(EchoX.from_pretrained(saved[0], device="cpu"))
    assert (logits(model) - plain).norm() / plain.norm() < 0.1


def test_the_card_is_written_from_the_record(tmp_path):
    model = tiny_echox()
    model.save_pretrained(tmp_path / "unknown")
    assert "No record was kept." in (tmp_path / "unknown" / "README.md").read_text()
    stage = {
        "stage": "s2t",
        "steps": 600,
        "seed": 7,
        "metrics": {"s2t_exact_heldout": 0.9375, "by/topic": 1.0},
        "cost": {"wall_s": 120.0, "cpu_s": 180.0},
        "environment": {"commit": "0123456789abc", "dirty": True},
        "recipe": {"training": {"output_dir": "out/s2t_small"}},
    }
    model.training_record = {"stages": [stage], "parameters_by_part": {"s2t": 2_000_000}, "recipe": {"dtype": "int8"}}
    model.save_pretrained(tmp_path / "m", card={"license": "apache-2.0", "language": ["en"], "name": "me/tiny"})
    text = (tmp_path / "m" / "README.md").read_text()
    _, head, body = text.split("---\n", 2)
    metadata = yaml.safe_load(head)
    assert metadata["license"] == "apache-2.0"
    assert metadata["language"] == ["en"]
    assert metadata["pipeline_tag"] == "audio-to-audio"
    assert "# me/tiny" in body
    assert "| `s2t_small` | `012345678+` | 7 | 600 | 2 | 3 | s2t_exact_heldout 0.938 |" in body
    assert "| `s2t` | 2.00 |" in body
    assert "weights stored as int8" in body


class Hub(BaseHTTPRequestHandler):
    """The few calls of the hub's interface that an upload of small files needs; keeps the files in a folder."""

    folder: Path
    created: list[dict]

    def do_POST(self):
        data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path == "/api/repos/create":
            self.created.append(json.loads(data))
            self.answer({"url": f"{self.server.address}/me/tiny"})
        elif self.path == "/api/validate-yaml":
            self.answer({"warnings": [], "errors": []})
        elif "/preupload/" in self.path:
            files = [
                {"path": item["path"], "uploadMode": "regular", "shouldIgnore": False}
                for item in json.loads(data)["files"]
            ]
            self.answer({"files": files})
        elif "/commit/" in self.path:
            for line in map(json.loads, data.splitlines()):
                if line["key"] == "file":
                    path = self.folder / line["value"]["path"]
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(base64.b64decode(line["value"]["content"]))
                elif line["key"] == "deletedFile":
                    (self.folder / line["value"]["path"]).unlink()
            self.answer(
                {"success": True, "commitOid": "c" * 40, "commitUrl": f"{self.server.address}/me/tiny/commit/c"}
            )
        else:
            self.send_error(404)

    def do_GET(self):
        if "/tree/" in self.path:
            paths = [path for path in self.folder.rglob("*") if path.is_file()]
            return self.answer(
                [
                    {"type": "file", "path": str(path.relative_to(self.folder)), "size": 1, "oid": "0" * 40}
                    for path in paths
                ]
            )
        return self.answer({"id": "me/tiny", "sha": "0" * 40, "siblings": [], "private": False, "tags": []})

    def answer(self, content: dict | list) -> None:
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def test_push_to_hub_uploads_a_folder_that_loads(saved, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)  # the tests' own guard; this server is here
    for name in ("parts.json", "turn_head.safetensors", "tool_adapter/adapter_config.json", "notes/mine.txt"):
        (tmp_path / "hub" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "hub" / name).write_text("of the model before")
    handler = type("Hub", (Hub,), {"folder": tmp_path / "hub", "created": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.address = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        model = EchoX.from_pretrained(saved[0], device="cpu")
        api = HfApi(endpoint=server.address, token="hf_test")
        url = model.push_to_hub("me/tiny", card={"license": "apache-2.0"}, private=True, api=api)
    finally:
        server.shutdown()
        server.server_close()
    assert "commit" in url
    assert handler.created[0]["name"] == "tiny"
    names = {str(path.relative_to(tmp_path / "hub")) for path in (tmp_path / "hub").rglob("*") if path.is_file()}
    assert names == {path.name for path in saved[0].iterdir()} | {"notes/mine.txt"}
    (tmp_path / "hub" / "tool_adapter").rmdir()  # the hub has no empty folders
    uploaded = EchoX.from_pretrained(tmp_path / "hub", device="cpu")
    assert torch.equal(logits(uploaded), logits(model))
    assert "license: apache-2.0" in (tmp_path / "hub" / "README.md").read_text()


@pytest.mark.parametrize("offline", [True, False])
def test_without_network_an_adapter_of_the_hub_is_not_said_to_be_another_one(offline, monkeypatch):
    def lost(*_):
        raise LocalEntryNotFoundError("no connection, nothing in the cache")

    monkeypatch.setattr(hub_files.constants, "HF_HUB_OFFLINE", offline)
    monkeypatch.setattr(hub_files, "hf_hub_download", lost)
    found = "HF_HUB_OFFLINE is set" if offline else "no answer of"
    expected = f"nobody/nothing: expected adapter_config.json of this hub id, found that {found}"
    with pytest.raises(ValueError, match=expected):
        load_adapter(tiny_echox().model, "nobody/nothing")
