"""Downloads files of corpora over HTTP and from the Hugging Face hub; interrupted downloads are continued."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Sequence
from http.client import HTTPException, HTTPMessage, HTTPResponse
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

from echox.errors import reason
from echox.files import file_sha256

_BLOCK_BYTES = 1 << 20
_SCHEMES = ("https", "http")
MAX_BYTES = 1 << 40  # 1 TiB: no archive of a corpus is larger, an endless answer would be


class _OnlyTheWeb(urllib.request.HTTPRedirectHandler):
    """Follows redirects to https and http, never from https back to http."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        """The request that follows a redirect.

        Raises:
            urllib.error.URLError: it leads to another scheme.
        """
        before, after = urlsplit(req.full_url).scheme, urlsplit(newurl).scheme
        if after not in _SCHEMES or (before == "https" and after != "https"):
            raise urllib.error.URLError(f"expected a redirect to {before}, found one to {after or 'nowhere'}")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def fetch_url(
    url: str,
    path: Path,
    timeout_s: float = 60.0,
    max_bytes: int = MAX_BYTES,
    num_bytes: int | None = None,
    sha256: str | None = None,
) -> Path:
    """Download a file; an interrupted download in ``<name>.part`` is continued.

    Args:
        url: https or http.
        path: of the file; an existing one is kept if it has the expected size and checksum.
        timeout_s: longest wait for the network.
        max_bytes: most bytes of the file; a longer one is refused during the download.
        num_bytes: its exact size, if it is known.
        sha256: its checksum in hexadecimal, if it is known.

    Raises:
        ValueError: another kind of URL, or a file of another size or checksum than expected.
        ConnectionError: the server cannot be reached, refuses, or sends less than it announced.
    """
    scheme = urlsplit(url).scheme
    if scheme not in _SCHEMES:
        raise ValueError(f"{url[:200]}: expected an https or http URL, found {scheme or 'none'}")
    if path.exists():
        _check_file(url, path, num_bytes, sha256)
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    _receive(url, part, timeout_s, max_bytes if num_bytes is None else min(max_bytes, num_bytes))
    try:
        _check_file(url, part, num_bytes, sha256)
    except ValueError:
        part.unlink()  # continuing it cannot make it right
        raise
    part.replace(path)
    return path


def _receive(url: str, part: Path, timeout_s: float, max_bytes: int) -> None:
    """Append the missing bytes to ``part``."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    # Not the default opener, which also opens file:, ftp: and data: URLs.
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        _OnlyTheWeb(),
    ):
        opener.add_handler(handler)
    try:
        with opener.open(request, timeout=timeout_s) as response:
            # 200: the server has no ranges and sends the whole file; 206 from another offset would mix two files.
            start = response.headers.get("Content-Range", "").removeprefix("bytes ").partition("-")[0]
            resumed = response.status == 206 and start == str(have)
            if response.status == 206 and not resumed:
                part.unlink()
                raise ConnectionError(f"{url}: expected the bytes from {have} on, found others; call again")
            received = _write(url, response, part, resumed, max_bytes)
            expected = response.length if response.length is None else response.length + received
    except urllib.error.HTTPError as error:
        if error.code != 416 or not have:  # 416: nothing is left to send
            raise ConnectionError(f"{url}: could not be fetched: {error}; call again") from error
        return
    except (urllib.error.URLError, TimeoutError, HTTPException) as error:
        raise ConnectionError(f"{url}: could not be fetched: {error}; call again to continue") from error
    if expected is not None and received != expected:
        raise ConnectionError(f"{url}: expected {expected} bytes, received {received}; call again to continue")


def _write(url: str, response: HTTPResponse, part: Path, resumed: bool, max_bytes: int) -> int:
    """Write an answer; returns its number of bytes."""
    received = 0
    with part.open("ab" if resumed else "wb") as out:
        while block := response.read(_BLOCK_BYTES):
            received += len(block)
            if out.tell() + len(block) > max_bytes:
                out.close()
                part.unlink()
                raise ValueError(f"{url}: expected at most {max_bytes} bytes, found more")
            out.write(block)
    return received


def _check_file(url: str, path: Path, num_bytes: int | None, sha256: str | None) -> None:
    size = path.stat().st_size
    if num_bytes is not None and size != num_bytes:
        raise ValueError(f"{url}: expected {num_bytes} bytes, found {size} ({path}); remove it and call again")
    if sha256 is None:
        return
    found = file_sha256(path)
    if found != sha256.lower():
        raise ValueError(f"{url}: expected the SHA-256 {sha256}, found {found} ({path}); remove it and call again")


def fetch_hub(hub_id: str, folder: Path, patterns: Sequence[str] = ()) -> Path:
    """Download a dataset repository of the hub; an interrupted download is continued.

    Raises:
        ConnectionError: the hub cannot be reached or refuses.
    """
    from huggingface_hub import snapshot_download

    try:
        snapshot_download(hub_id, repo_type="dataset", local_dir=folder, allow_patterns=list(patterns) or None)
    except Exception as error:  # a lost connection and a proxy that refuses have many kinds of exceptions
        raise ConnectionError(f"{hub_id}: could not be fetched: {reason(error)}") from error
    return folder
