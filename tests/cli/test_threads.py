"""Threads of commands that answer: one for a small model, and none of several waits by running."""

import os
import subprocess
import sys

import pytest
import torch

from echox.api.loading import bundled_questions
from echox.process_threads import SMALL_BYTES, set_threads
from tiny_echox import tiny_echox


@pytest.fixture(autouse=True)
def same_threads_after():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_a_small_model_has_one_thread_unless_the_user_names_more(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    torch.set_num_threads(3)
    set_threads(None, tiny_echox().model)
    assert torch.get_num_threads() == 3
    monkeypatch.delenv("OMP_NUM_THREADS")
    set_threads(None, tiny_echox().model)
    assert torch.get_num_threads() == 1
    set_threads(2, tiny_echox().model)
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize(("numbers", "device"), [(SMALL_BYTES // 4, "cpu"), (1, "meta")])
def test_others_keep_the_threads_of_torch(numbers, device, monkeypatch):
    """A large model, and one that is not on the CPU."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    model = torch.nn.Module()
    model.register_buffer("weights", torch.empty(numbers, device=device))
    torch.set_num_threads(3)
    set_threads(None, model)
    assert torch.get_num_threads() == 3


@pytest.mark.skipif(sys.platform != "linux", reason="only torch for Linux has the OpenMP that prints what it read")
@pytest.mark.parametrize(("given", "found"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_threads_sleep_while_they_wait_unless_the_environment_says_otherwise(given, found, tmp_path):
    """OpenMP reads its environment once, when torch is imported: nothing may import it before."""
    command = [sys.executable, "-m", "echox", "reply", str(bundled_questions()[0]), "--model", "nano"]
    environment = {**os.environ, "OMP_DISPLAY_ENV": "TRUE", **({"OMP_WAIT_POLICY": given} if given else {})}
    if given is None:
        environment.pop("OMP_WAIT_POLICY", None)
    done = subprocess.run(
        [*command, "--output", str(tmp_path / "reply.wav")], env=environment, capture_output=True, text=True, check=True
    )
    assert f"OMP_WAIT_POLICY = '{found}'" in done.stderr
