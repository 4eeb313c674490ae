"""A hub that cannot be reached, or a proxy that refuses: every road says so in our words, whatever was raised."""

import pytest
import torch
from typer.testing import CliRunner

from echox.api import EchoX
from echox.api.loading import embedded_folder, find_model
from echox.api.parts import Part, read_parts
from echox.cli.main import app
from echox.data.corpora.fetch import fetch_hub
from echox.evaluation.sets.tasks import open_tasks
from echox.models.echox.configuration_echox import EchoXConfig


class ProxyError(Exception):
    """Of an HTTP library: neither an OSError nor one of the hub's own errors."""


LOST = [ProxyError("403 Forbidden"), RuntimeError(""), ConnectionResetError("reset by peer"), TimeoutError()]


@pytest.fixture(params=LOST, ids=lambda error: type(error).__name__)
def lost(request, monkeypatch):
    def download(*_, **__):
        raise request.param

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    return str(request.param) or type(request.param).__name__


def test_a_model(lost):
    with pytest.raises(ValueError, match=rf"owner/name: expected a model folder or a hub id, found neither \({lost}\)"):
        find_model("owner/name")


@pytest.mark.parametrize("named", [False, True])
def test_a_revision_of_a_repository(named, monkeypatch):
    options = {"revision": "v1", "token": "t", "cache_dir": "c", "local_files_only": True, "force_download": False}
    asked = []

    def download(name, **found):
        asked.append((name, found))
        return str(embedded_folder("nano"))

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    model = EchoX.from_pretrained("owner/name", device="cpu", dtype="float16" if named else torch.float16, **options)
    assert asked == [("owner/name", options)]
    assert next(model.model.s2t.parameters()).dtype == torch.float16
    with pytest.raises(ValueError, match="vocoder: expected only with the official release"):
        EchoX.from_pretrained("owner/name", device="cpu", vocoder="v", **options)
    with pytest.raises(ValueError, match="dtype: expected one of"):
        EchoX.from_pretrained(dtype="half")


def test_a_part_of_mini(lost, monkeypatch):
    monkeypatch.setattr(Part, "find", lambda self: None)
    for part in read_parts(embedded_folder("mini")):
        with pytest.raises(ValueError, match=rf"or this repository, found neither \({lost}\); pip install"):
            part.load(EchoXConfig())


def test_a_command(lost):
    result = CliRunner().invoke(app, ["reply", "--text", "Hello.", "--model", "owner/name"])
    assert result.exit_code != 0
    assert "expected a model folder or a hub id" in result.output
    assert "unexpected" not in result.output


def test_a_corpus(lost, tmp_path):
    with pytest.raises(ConnectionError, match=rf"owner/name: could not be fetched: {lost}"):
        fetch_hub("owner/name", tmp_path)


def test_a_test_set(lost):
    with pytest.raises(ValueError, match=rf"expected the data set .* found none \({lost}\); name a copy"):
        open_tasks("big-bench-audio", None)
