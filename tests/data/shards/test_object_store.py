"""Shards over a network: an HTTP server with ranges, an asynchronous file system as s3fs is one, forked workers.

fsspec's own file systems for HTTP and S3 need aiohttp, which is not among this package's dependencies. The one here is
made like them, of fsspec's base class for asynchronous stores, with a thread of its own for their loop.
"""

from __future__ import annotations

import asyncio
import random
import re
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch
from fsspec.asyn import AsyncFileSystem
from transformers import WhisperConfig

from echox.config import TrainingConfig
from echox.data.features.tower_features import TowerFeatures
from echox.data.shards.files import names_in, read_bytes
from echox.training.batches.stream import BatchStream
from echox.training.checkpoints.checkpoint import TrainingProgress
from echox.training.stages.dialogue.dialogue_sources import Dialogues, dialogue_source
from test_dialogue_shards import corpus, written


class Whole(SimpleHTTPRequestHandler):
    """Files of a folder; ranges are ignored, as some servers do. Notes what is asked for."""

    asked: list[tuple[str, str | None]]

    def __init__(self, *arguments: Any, asked: list[tuple[str, str | None]], **more: Any) -> None:
        self.asked = asked
        super().__init__(*arguments, **more)

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        self.asked.append((self.path, self.headers.get("Range")))
        super().do_GET()


class Ranged(Whole):
    """And ranges."""

    def do_GET(self) -> None:
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range") or "")
        if asked is None:
            super().do_GET()
            return
        self.asked.append((self.path, self.headers["Range"]))
        content = Path(self.translate_path(self.path)).read_bytes()[int(asked[1]) : int(asked[2]) + 1]
        self.send_response(206)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


class HTTPStore(AsyncFileSystem):
    """``nethttp://host:port/path``, with one connection for each request."""

    protocol = "nethttp"

    async def _ask(self, path: str, **headers: str) -> tuple[int, bytes]:
        place, _, name = path.partition("/")
        host, _, port = place.partition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        lines = [f"GET /{name} HTTP/1.0", *(f"{key}: {value}" for key, value in headers.items())]
        writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())
        head, _, content = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()
        return int(head.split()[1]), content

    async def _cat_file(self, path: str, start: int | None = None, end: int | None = None, **_: Any) -> bytes:
        headers = {} if start is None else {"Range": f"bytes={start}-{end - 1}"}
        status, content = await self._ask(path, **headers)
        if status not in (200, 206):
            raise FileNotFoundError(path)
        return content

    async def _info(self, path: str, **_: Any) -> dict[str, Any]:
        status, _ = await self._ask(path.rstrip("/"))
        if status == 404:
            raise FileNotFoundError(path)
        return {"name": path, "type": "directory" if status == 301 else "file", "size": None}

    async def _ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
        _, page = await self._ask(path.rstrip("/") + "/")
        names = [f"{path}/{name.rstrip('/')}" for name in re.findall(r'href="([^"]+)"', page.decode())]
        return [{"name": name} for name in names] if detail else names


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    return written(corpus(tmp_path_factory.mktemp("corpus")))


@pytest.fixture(params=[Ranged], ids=["ranges"])
def store(made, request) -> Iterator[tuple[str, list[tuple[str, str | None]]]]:
    """The address of the shards, and what was asked of its server."""
    fsspec.register_implementation("nethttp", HTTPStore, clobber=True)
    asked: list[tuple[str, str | None]] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(request.param, asked=asked, directory=str(made)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"nethttp://127.0.0.1:{server.server_port}/dialogue_shards", asked
    server.shutdown()
    server.server_close()


def loaded(dialogues: Dialogues, workers: int) -> list[torch.Tensor]:
    """All that is heard, in the order in which a run reads it."""

    def collate(items, rng: random.Random) -> dict[str, object]:
        return {
            "heard": torch.cat(
                [item.features(turn) for item in items for turn in sorted(item.rows)] or [torch.zeros(0, 80)]
            )
        }

    config = TrainingConfig("unused", 1, 200.0, {"all": 1.0}, batch_by="total_length", workers=workers)
    stream = BatchStream(dialogues, dialogues.frames.tolist(), collate, config, TrainingProgress())
    try:
        return [next(stream).tensors["heard"] for _ in range(6)]
    finally:
        stream.close()


def test_a_run_reads_a_store_as_it_reads_a_disk(made, store):
    """Also in forked workers, after this process has used the store: its loop and thread are not theirs."""
    address, asked = store
    tower = TowerFeatures(WhisperConfig(num_mel_bins=80))
    assert names_in(address) == names_in(str(made / "dialogue_shards"))
    local = dialogue_source(made / "dialogue_shards", tower, 2).training
    remote = dialogue_source(address, tower, 2).training
    expected = loaded(local, 0)
    for workers in (0, 2):
        asked.clear()
        found = loaded(remote, workers)
        assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
        archives = [span for path, span in asked if path.endswith(".tar")]
        assert archives
        assert None not in archives, "recordings only, never a whole archive"
        assert len([path for path, _ in asked if path.endswith(".gz")]) <= 8 * max(1, workers), "cuts once in a process"


@pytest.mark.parametrize("store", [Whole], indirect=True, ids=["no ranges"])
def test_a_store_that_ignores_ranges_is_refused(made, store):
    """Its answer to a range is the whole archive, whose beginning is another recording."""
    address, _ = store
    place = f"{address}/train/recording.000000.tar"
    assert read_bytes(place) == (made / "dialogue_shards/train/recording.000000.tar").read_bytes()
    with pytest.raises(ValueError, match=r"recording\.000000\.tar: expected 100 bytes from 512, found \d+: .*ranges"):
        read_bytes(place, 512, 612)


def test_what_is_not_there_is_named(store):
    address, _ = store
    assert names_in(f"{address}/nowhere") == []
    with pytest.raises(ValueError, match=r"nothing\.npz: expected a file that can be read"):
        read_bytes(f"{address}/nothing.npz")
