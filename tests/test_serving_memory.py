"""A server for days: what it must not keep."""

import os
import subprocess
import sys

import pytest

SCRIPT = """
import psutil, torch
from echox.serving.memory import keep_few_kernels
if {few}:
    keep_few_kernels()
layer = torch.nn.Conv1d(64, 64, 3)
def run(sizes):
    with torch.inference_mode():
        for size in sizes:
            layer(torch.zeros(1, 64, size))
    return psutil.Process().memory_info().rss / 1e6
before = run(range(100, 200))
print(run(range(200, 1000)) - before)
"""


def grown_mb(few: bool) -> float:
    """In a process of its own: the number is read once."""
    environment = {name: value for name, value in os.environ.items() if "PRIMITIVE_CACHE" not in name}
    command = [sys.executable, "-c", SCRIPT.format(few=few)]
    return float(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)


def test_kernels_of_sizes_that_never_come_again_are_not_kept():
    pytest.importorskip("psutil")
    kept, few = grown_mb(False), grown_mb(True)
    if kept < 20:
        pytest.skip("this torch keeps no kernels by size")
    assert few < kept / 2, "137 MB and 30 MB where this was written"
