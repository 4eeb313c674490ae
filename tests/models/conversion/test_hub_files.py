"""Files of hub repositories: "there is none" is an answer of the hub, and nothing else is taken for it."""

import errno

import httpx
import pytest
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)

from echox.models.conversion import hub_files
from echox.models.conversion.checkpoint import open_checkpoint
from echox.models.conversion.hub_files import HubUnreachable, find_file, find_first

ANSWER = httpx.Response(500, request=httpx.Request("GET", "http://hub"))
LOST = [
    LocalEntryNotFoundError("no connection, nothing in the cache"),
    OfflineModeIsEnabled("offline"),
    HfHubHTTPError("500 Server Error", response=ANSWER),
    httpx.ConnectError("refused"),
    httpx.ReadTimeout("slow"),
    httpx.RemoteProtocolError("peer closed connection"),
    ConnectionResetError(errno.ECONNRESET, "reset by peer"),
    TimeoutError("slow"),
]
WRONG_ID = [
    RepositoryNotFoundError("404", response=ANSWER),
    GatedRepoError("401", response=ANSWER),
    HFValidationError("Repo id must be in the form 'repo_name' or 'namespace/repo_name'"),
]


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A repository: each file's name to what asking for it raises, or to True; all other names are not in it."""
    answers, asked = {}, []

    def download(_, name):
        asked.append(name)
        answer = answers.get(name, EntryNotFoundError("404"))
        if isinstance(answer, Exception):
            raise answer
        path = tmp_path / name
        path.write_text("{}", encoding="utf-8")
        return str(path)

    monkeypatch.setattr(hub_files, "hf_hub_download", download)
    monkeypatch.setattr(hub_files, "try_to_load_from_cache", lambda _, name: answers.get(("cached", name)))
    answers["asked"] = asked
    return answers


def kind(error):
    return type(error).__name__


def test_only_the_hub_says_that_there_is_none(hub):
    hub["here.json"] = True
    assert find_file("owner/name", "here.json").name == "here.json"
    assert find_file("owner/name", "other.json") is None


@pytest.mark.parametrize("error", LOST, ids=kind)
def test_a_lost_connection_is_not_a_missing_file(hub, error):
    hub["config.json"] = error
    with pytest.raises(HubUnreachable, match=r"owner/name: expected config.json of this hub id, found that"):
        find_file("owner/name", "config.json")
    hub["cached", "config.json"] = "/cache/config.json"
    assert str(find_file("owner/name", "config.json")) == "/cache/config.json"
    hub["cached", "config.json"] = object()  # how the cache keeps an earlier "there is none"
    assert find_file("owner/name", "config.json") is None


@pytest.mark.parametrize("offline", [True, False])
def test_the_message_names_what_is_in_the_way(hub, offline, monkeypatch):
    monkeypatch.setattr(hub_files.constants, "HF_HUB_OFFLINE", offline)
    hub["config.json"] = LOST[0]
    with pytest.raises(HubUnreachable, match="HF_HUB_OFFLINE is set" if offline else "check the network and the id"):
        find_file("owner/name", "config.json")


@pytest.mark.parametrize("error", WRONG_ID, ids=kind)
def test_an_id_that_there_is_not(hub, error):
    hub["config.json"] = error
    with pytest.raises(ValueError, match="owner/name: expected a folder or a hub id, found neither"):
        find_file("owner/name", "config.json")


@pytest.mark.parametrize("place", ["./nowhere", "/nowhere/at/all", "a/b/c", __file__])
def test_a_path_that_leads_nowhere_is_not_asked_for(hub, place):
    with pytest.raises(ValueError, match="expected a folder or a hub id"):
        find_file(place, "config.json")
    assert hub["asked"] == []


def test_a_full_disk_is_not_the_network(hub):
    hub["config.json"] = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(OSError, match="No space left"):
        find_file("owner/name", "config.json")


@pytest.mark.parametrize("error", LOST, ids=kind)
@pytest.mark.parametrize("lost", ["model.safetensors.index.json", "model.safetensors"])
def test_after_a_lost_connection_no_other_file_is_taken(hub, lost, error):
    hub[lost] = error
    hub["pytorch_model.bin"] = True
    with pytest.raises(HubUnreachable, match=lost):
        open_checkpoint("owner/name")
    assert hub["asked"][-1] == lost


def test_without_network_the_first_file_in_the_cache_is_taken(hub):
    hub["a"] = hub["b"] = LOST[0]
    hub["cached", "b"] = "/cache/b"
    assert str(find_first("owner/name", ["a", "b"])) == "/cache/b"
