"""Fetching what a corpus is made of, resumable: plain files over HTTP, and repositories of the Hugging Face hub."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

_BLOCK_BYTES = 1 << 20


def fetch_url(url: str, path: Path, timeout_s: float = 60.0) -> Path:
    """Fetch a file; what an interrupted call has left in ``<name>.part`` is continued, not fetched again.

    Raises:
        ConnectionError: the server cannot be reached, refuses, or sends less than it announced.
    """
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        with urllib.request.urlopen(request, timeout=timeout_s) as response:
            resumed = response.status == 206  # 200: the server knows no ranges and begins anew
            expected = response.length
            with part.open("ab" if resumed else "wb") as out:
                before = out.tell()
                while block := response.read(_BLOCK_BYTES):
                    out.write(block)
                received = out.tell() - before
    except urllib.error.HTTPError as error:
        if error.code != 416 or not have:  # 416: nothing is left to send
            raise ConnectionError(f"{url}: could not be fetched: {error}; call again") from error
        received, expected = 0, 0
    except (urllib.error.URLError, TimeoutError) as error:
        raise ConnectionError(f"{url}: could not be fetched: {error}; call again, it goes on") from error
    if expected is not None and received != expected:
        raise ConnectionError(f"{url}: expected {expected} bytes, received {received}; call again, it goes on")
    part.replace(path)
    return path


def fetch_hub(hub_id: str, folder: Path, patterns: Sequence[str] = ()) -> Path:
    """Fetch a dataset repository of the hub (resumable by itself).

    Raises:
        ConnectionError: the hub cannot be reached or refuses.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        snapshot_download(hub_id, repo_type="dataset", local_dir=folder, allow_patterns=list(patterns) or None)
    except (HfHubHTTPError, OSError) as error:
        raise ConnectionError(f"{hub_id}: could not be fetched: {' '.join(str(error).split())[:200]}") from error
    return folder
