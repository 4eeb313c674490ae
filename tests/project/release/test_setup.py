"""scripts/setup.sh with programs that only note what they are asked: what is installed when, where, and tried again."""

import os
import shutil
import subprocess

import pytest

from paths import ROOT

PYTHON = """#!/usr/bin/env bash
# Starts if the file "interpreter" is there, and every check passes. Installations are noted; those of mini's parts fail
# as often as the file "failures" says, those of torch if there is a file "no_torch".
[ -f interpreter ] || exit 127
case "$*" in
  *" install "* | *" download "*) echo "$*" >>installed ;;
  *cache_tag*) cat interpreter; exit 0 ;;
  *version*torch*) cat torch; exit 0 ;;
  *) exit 0 ;;
esac
case "$*" in
  *requirements/mini.txt*)
    left=$(cat failures)
    if [ "$left" -gt 0 ]; then echo $((left - 1)) >failures; exit 1; fi ;;
  *torch==*+cpu*) echo torch==$PINNED+cpu >torch ;;
  *requirements/torch.txt*)
    if [ -f no_torch ]; then exit 1; fi
    echo torch==$PINNED >torch ;;
esac
"""
SMI = """#!/usr/bin/env bash
# Lists the file "gpus": name, compute capability, driver; "unknown" is a driver that does not know the capability.
case "$*" in
  *compute_cap*) if grep -q unknown gpus; then echo "Field is not a valid field to query."; exit 2; fi; cat gpus ;;
  *) sed 's/, unknown//' gpus ;;
esac
"""
UNAME = """#!/usr/bin/env bash
case "$1" in -s) echo "$SYSTEM" ;; -m) echo "$MACHINE" ;; esac
"""
PINNED = next(
    line.split()[0].removeprefix("torch==")
    for line in (ROOT / "requirements/torch.txt").read_text(encoding="utf-8").splitlines()
    if line.startswith("torch==")
)
FAILED = "setup: the parts of model mini could not be installed; nano answers in its place, the next set-up tries again"
ORDER = ("core", "serve", "dev")
PLACES = [("Linux", "x86_64"), ("Linux", "aarch64"), ("Darwin", "arm64")]


def write_program(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)


@pytest.fixture
def checkout(tmp_path):
    for name in ("scripts", "requirements"):
        shutil.copytree(ROOT / name, tmp_path / name)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    parts = tmp_path / "src/echox/assets/mini/parts.json"
    parts.parent.mkdir(parents=True)
    parts.write_text("{}", encoding="utf-8")
    write_program(tmp_path / ".venv/bin/python", PYTHON)
    write_program(tmp_path / "programs/uname", UNAME)
    for name, text in {"interpreter": "cpython-311 x86_64", "failures": "0", "torch": f"torch=={PINNED}+cpu"}.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


def start(checkout, *command, place=PLACES[0], **variables):
    path = f"{checkout / 'programs'}:{os.environ['PATH']}"
    known = {"PATH": path, "PINNED": PINNED, "SYSTEM": place[0], "MACHINE": place[1], **variables}
    (checkout / "installed").write_text("", encoding="utf-8")
    environment = {**os.environ, **known}
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment, cwd=checkout)


def noted(checkout):
    return (checkout / "installed").read_text(encoding="utf-8").splitlines()


def set_up(checkout, kind, place=PLACES[0]):
    """Locks (and "-e .") that this call installed, what it said on stderr, and the commands."""
    done = start(checkout, "scripts/setup.sh", kind, place=place)
    assert done.returncode == 0, done.stderr
    lines = noted(checkout)
    return [line.split("requirements/")[-1].split(".txt")[0] for line in lines], done.stderr.splitlines(), lines


def attempts(failures):
    """Commands of one set-up that try the parts of mini: a wheel for this system, then the one for another."""
    return ["mini"] * min(failures + 1, 2)


@pytest.mark.parametrize(("kind", "failures"), [("core", 0), ("core", 1), ("serve", 2), ("dev", 5)])
def test_parts_of_mini_are_tried_until_they_are_there(checkout, kind, failures):
    (checkout / "failures").write_text(str(failures), encoding="utf-8")
    installed, said, lines = set_up(checkout, kind)
    assert installed[:-1] == [kind, *attempts(failures)]
    assert said == ([FAILED] if failures > 1 else [])
    while failures > 1:
        failures -= 2
        smaller = ORDER[0] if failures % 2 else kind  # a kind that is contained counts as set up
        installed, said, lines = set_up(checkout, smaller)
        assert installed == attempts(failures)
        assert all("--require-hashes" in line for line in lines)
        assert all("--retries 0 --timeout 5" in line for line in lines)
        assert said == ([FAILED] if failures > 1 else [])
    assert set_up(checkout, kind) == ([], [], [])


@pytest.mark.parametrize("place", PLACES, ids=" ".join)
def test_without_a_wheel_for_this_system_the_weights_come_from_another_one(checkout, place):
    (checkout / "failures").write_text("1", encoding="utf-8")
    (checkout / "torch").write_text(f"torch=={PINNED}", encoding="utf-8")
    _, said, lines = set_up(checkout, "core", place)
    (download,) = [line for line in lines if " download " in line]
    assert "--platform manylinux_2_34_x86_64" in download
    assert "--require-hashes" in download
    assert said == []


def test_without_the_model_its_parts_are_not_asked_for(checkout):
    (checkout / "src/echox/assets/mini/parts.json").unlink()
    assert "mini" not in set_up(checkout, "core")[0]
    assert set_up(checkout, "core") == ([], [], [])


@pytest.mark.parametrize("changed", ["requirements/mini.txt", "scripts/install_torch.sh", "pyproject.toml"])
def test_other_pins_are_another_set_up(checkout, changed):
    set_up(checkout, "core")
    with (checkout / changed).open("a", encoding="utf-8") as file:
        file.write("# changed\n")
    assert set_up(checkout, "core")[0][:2] == ["core", "mini"]


@pytest.mark.parametrize("kind", ["core", "dev"])
def test_another_interpreter_is_another_set_up(checkout, kind):
    set_up(checkout, kind)
    (checkout / "interpreter").write_text("cpython-312 x86_64", encoding="utf-8")
    assert set_up(checkout, kind)[0][:2] == [kind, "mini"]
    assert set_up(checkout, kind) == ([], [], [])


@pytest.mark.parametrize("kind", ["core", "dev"])
def test_an_interpreter_that_is_gone_is_replaced(checkout, kind):
    """Its own program is asked for a new environment; the stamps of the old one do not hide that it is dead."""
    set_up(checkout, kind)
    (checkout / "interpreter").unlink()
    write_program(checkout / "programs/other", '#!/usr/bin/env bash\necho "$*" >>asked\n[[ "$*" != *venv* ]]\n')
    done = start(checkout, "scripts/setup.sh", kind, PYTHON=str(checkout / "programs/other"))
    assert "-m venv --clear .venv" in (checkout / "asked").read_text(encoding="utf-8")
    assert done.returncode == 1
    assert "cannot make a virtual environment" in done.stderr


@pytest.mark.parametrize(
    "place",
    [("Darwin", "x86_64"), ("MINGW64_NT-10.0", "x86_64"), ("Linux", "armv7l"), ("FreeBSD", "amd64")],
    ids=" ".join,
)
def test_a_system_without_torch_is_refused_before_anything_is_installed(checkout, place):
    done = start(checkout, "scripts/setup.sh", "core", place=place)
    assert done.returncode == 1
    assert f"Windows by WSL2, found {' '.join(place)}" in done.stderr
    assert noted(checkout) == []


GPUS = {  # compute capability and driver -> whether CUDA 13's torch can use it
    "NVIDIA GeForce GTX 1080, 6.1, 535.129.03": False,
    "Tesla V100-SXM2-16GB, 7.0, 580.65.06": False,
    "Tesla T4, 7.5, 535.129.03": False,
    "Quadro K2000, unknown, 390.87": False,
    "Graphics Device, [N/A], [N/A]": False,
    "Tesla T4, 7.5, 580.65.06": True,
    "NVIDIA GeForce RTX 3060, 8.6, 581.42": True,
    "NVIDIA B200, 10.0, 590.44.01": True,
    "NVIDIA GeForce RTX 5090, 12.0, 580.95.05": True,
    "Tesla K80, 3.7, 580.65.06\nNVIDIA A100-SXM4-40GB, 8.0, 580.65.06": True,
}


@pytest.mark.parametrize(
    ("gpus", "usable", "before"),
    [(*one, "+cpu") for one in GPUS.items()]
    + [(*one, before) for one in list(GPUS.items())[4:6] for before in ("", "none")],
)
def test_torch_is_the_build_for_the_gpu_that_it_can_use(checkout, gpus, usable, before):
    write_program(checkout / "programs/nvidia-smi", SMI)
    (checkout / "gpus").write_text(gpus + "\n", encoding="utf-8")
    (checkout / "torch").write_text("" if before == "none" else f"torch=={PINNED}{before}\n", encoding="utf-8")
    done = start(checkout, "scripts/install_torch.sh", checkout / ".venv/bin/python")
    assert done.returncode == 0, done.stderr
    installed = noted(checkout)
    assert len(installed) == (before == "none" or (before == "+cpu" and usable))
    assert all(("+cpu" not in line) == usable for line in installed)
    assert all(("--force-reinstall" in line) == (before == "+cpu") for line in installed)
    unused = [line for line in done.stderr.splitlines() if "is not used: torch==" in line]
    assert len(unused) == (not usable and before != "")
    assert all(gpus.split(", ")[0] in line for line in unused)


def test_a_gpu_that_came_later_gets_its_torch_and_stays_unused_without_a_network(checkout):
    (checkout / "no_torch").touch()
    set_up(checkout, "core")
    write_program(checkout / "programs/nvidia-smi", SMI)
    (checkout / "gpus").write_text("Tesla T4, 7.5, 580.65.06\n", encoding="utf-8")
    installed, said, lines = set_up(checkout, "core")
    assert installed == ["torch"]
    assert "--retries 0" in lines[0]
    assert "the CPU answers, the next set-up tries again" in said[0]
    (checkout / "no_torch").unlink()
    assert set_up(checkout, "core")[0] == ["torch"]
    assert set_up(checkout, "core") == ([], [], [])
