"""Downloads use http and https only, end, and have the expected size and checksum."""

import hashlib
import http.server
import threading

import pytest

from echox.data.corpora.fetch import fetch_url

CONTENT = bytes(range(256)) * 40


class Web(http.server.BaseHTTPRequestHandler):
    """Redirects ``/to/<url>``, serves ``/file``, never ends ``/endless``, and answers ranges wrongly at ``/other``."""

    def do_GET(self) -> None:
        if self.path.startswith("/to/"):
            self.send_response(302)
            self.send_header("Location", self.path.removeprefix("/to/"))
            self.end_headers()
            return
        self.send_response(206 if self.path == "/other" else 200)
        if self.path == "/other":
            self.send_header("Content-Range", "bytes 0-9/10240")
        if self.path == "/file":
            self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        for _ in range(100 if self.path == "/endless" else 1):
            self.wfile.write(CONTENT)

    def log_message(self, *args) -> None:
        """Quiet."""


@pytest.fixture(scope="module")
def web():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Web)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("url", ["file:///etc/hostname", "ftp://localhost/x", "data:,x", "/etc/hostname", "", "x:y"])
def test_only_the_web_is_asked(tmp_path, web, url):
    with pytest.raises(ValueError, match="expected an https or http URL"):
        fetch_url(url, tmp_path / "x")
    if ":" in url:
        with pytest.raises(ConnectionError):
            fetch_url(f"{web}/to/{url}", tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_redirects_on_the_web_are_followed_but_not_for_ever(tmp_path, web):
    assert fetch_url(f"{web}/to/{web}/file", tmp_path / "x").read_bytes() == CONTENT
    with pytest.raises(ConnectionError):
        fetch_url(f"{web}/to//to//to/{web}/to/", tmp_path / "y")


def test_sizes_and_checksums(tmp_path, web):
    right = hashlib.sha256(CONTENT).hexdigest()
    fetch_url(f"{web}/file", tmp_path / "x", num_bytes=10240, sha256=right.upper())
    with pytest.raises(ValueError, match="expected the SHA-256"):
        fetch_url(f"{web}/file", tmp_path / "y", sha256="0" * 64)
    with pytest.raises(ValueError, match="expected 10241 bytes, found 10240"):
        fetch_url(f"{web}/file", tmp_path / "y", num_bytes=10241)
    with pytest.raises(ValueError, match="expected at most 100000 bytes"):
        fetch_url(f"{web}/endless", tmp_path / "y", max_bytes=100_000)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x"]
    (tmp_path / "x").write_bytes(CONTENT[:-1])
    with pytest.raises(ValueError, match="expected 10240 bytes, found 10239"):
        fetch_url(f"{web}/file", tmp_path / "x", num_bytes=10240)


def test_the_wrong_range_is_not_appended(tmp_path, web):
    (tmp_path / "x.part").write_bytes(b"half")
    with pytest.raises(ConnectionError, match="found others"):
        fetch_url(f"{web}/other", tmp_path / "x")
    assert not (tmp_path / "x.part").exists()
