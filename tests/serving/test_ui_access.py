"""Who may reach the Gradio page, and what becomes of what they upload."""

import os
import time
from pathlib import Path

import httpx
import pytest

pytest.importorskip("gradio", reason="needs the extra [ui]")


@pytest.fixture(scope="module")
def address():
    from echox import EchoX
    from echox.serving.gradio_page import build_page, launch

    page = build_page(EchoX.from_pretrained("nano", device="cpu"))
    assert page.delete_cache is not None
    yield launch(page, block=False)
    page.close()


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


def test_uploads_lie_in_a_folder_of_this_process_and_go(address):
    from echox.serving.gradio_page import remove_old_files

    folder = os.environ["GRADIO_TEMP_DIR"]
    found = upload(address)
    path = Path(found.json()[0])
    assert path.is_file()
    assert path.is_relative_to(folder)
    remove_old_files(folder, time.time())
    assert path.is_file()
    remove_old_files(folder, time.time() + 3600)
    assert not path.exists()
