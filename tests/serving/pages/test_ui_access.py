"""Access to the Gradio page, and the removal of uploads."""

import importlib.util
import os
import time
from pathlib import Path

import httpx
import pytest

from echox.api.loading import bundled_questions

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("gradio") is None, reason="needs the extra [ui]"),
    # Gradio's own: an option of pandas that ends, sockets and a loop of its start that it leaves open
    pytest.mark.filterwarnings("ignore:'future.no_silent_downcasting' is deprecated"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def page():
    from echox import EchoX
    from echox.serving.gradio_page import build_page, files_of_page

    page = build_page(EchoX.from_pretrained("nano", device="cpu"))
    assert page.delete_cache is not None
    for path in files_of_page(page):  # a package installed long ago
        os.utime(path, (0, 0))
    yield page
    page.close()


@pytest.fixture(scope="module")
def address(page):
    from echox.serving.gradio_page import launch

    return launch(page, block=False)


def upload(address, **headers):
    return httpx.post(f"{address}gradio_api/upload", files={"files": ("a.wav", b"x")}, headers=headers, timeout=20)


def test_hosts_and_origins_are_checked_as_by_serve(address):
    own = address.removeprefix("http://").rstrip("/")
    assert httpx.get(address, timeout=20).status_code == 200
    assert httpx.get(address, headers={"Host": "attacker.example"}, timeout=20).status_code == 403
    assert upload(address, Origin="https://attacker.example").status_code == 403
    assert upload(address, Origin="null").status_code == 403
    assert upload(address, Host="attacker.example", Origin="http://attacker.example").status_code == 403
    assert upload(address, Origin=f"http://{own}").status_code == 200


def test_uploads_are_in_a_folder_of_this_process_and_are_removed(address, page):
    from echox.serving.gradio_page import files_of_page, remove_old_files

    folder = os.environ["GRADIO_TEMP_DIR"]
    found = upload(address)
    path = Path(found.json()[0])
    assert path.is_file()
    assert path.is_relative_to(folder)
    remove_old_files(folder, time.time(), keep=files_of_page(page))
    assert path.is_file()
    remove_old_files(folder, time.time() + 3600, keep=files_of_page(page))
    assert not path.exists()


def test_recordings_of_the_examples_are_not_removed(address, page):
    """They were, at the first request to a page whose package was installed over an hour before."""
    from gradio.route_utils import delete_files_created_by_app

    assert upload(address).status_code == 200  # old files are removed at the first request
    delete_files_created_by_app(page, 0)  # and by Gradio itself from time to time
    paths = sorted(path for files in page.temp_file_sets for path in files if "echox-page-" in path)
    examples = [path for path in paths if Path(path).name in {file.name for file in bundled_questions()}]
    assert len(examples) == 3
    for path in examples:
        assert httpx.get(f"{address}gradio_api/file={path}", timeout=20).status_code == 200


def asked(address, page, data):
    """What comes of calling the page's endpoint that answers, as any program may."""
    (name,) = (one["api_name"] for one in page.config["dependencies"] if len(one["outputs"]) == 6)
    event = httpx.post(f"{address}gradio_api/call/{name}", json={"data": data}, timeout=20).json()["event_id"]
    return httpx.get(f"{address}gradio_api/call/{name}/{event}", timeout=60).text


def test_a_visitor_cannot_name_a_file_of_the_server(address, page, tmp_path, monkeypatch):
    """A history that the page sent back was copied into the folder that is served, file by file."""
    monkeypatch.chdir(tmp_path)
    for name in ("private.wav", "private.txt"):
        (tmp_path / name).write_text("secret")
    kinds = {one["id"]: one["type"] for one in page.config["components"]}
    taken = {kinds[number] for one in page.config["dependencies"] for number in one["inputs"]}
    assert "chatbot" not in taken
    settings = [0.0, 0.9, 0.0, 8, 0, False]
    for name in ("private.wav", "private.txt", str(tmp_path / "private.wav")):
        file = {"path": name, "meta": {"_type": "gradio.FileData"}}
        history = [{"role": "user", "content": file}]
        for visit in (None, history, {"session": None, "chat": history}, file):
            asked(address, page, [None, "What does a cow say?", visit, "", *settings])
        asked(address, page, [file, "", None, "", *settings])
    assert "moo" in asked(address, page, [None, "What does a cow say?", None, "", *settings])
    folder = Path(os.environ["GRADIO_TEMP_DIR"])
    assert not [path for path in folder.rglob("*") if path.is_file() and path.read_bytes() == b"secret"]


def test_the_number_of_kept_conversations_is_bounded(address, page):
    assert page.state_session_capacity <= 100
    assert all(one.time_to_live for one in page.blocks.values() if type(one).__name__ == "State")
