"""The floors: imports go down only, light things import lightly."""

import ast
import functools
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import echox
from paths import TESTS

PACKAGE = Path(echox.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))

# docs/architecture.md: a room (a folder, or a file of the package itself) may import the rooms of lower floors only.
FLOORS = (
    "audio_decoding device errors evaluation/interop/plugins files keyed_requests models models/decoding "
    "models/quantization models/text models/unit_language process_memory process_threads serving/turn_detection "
    "speech_detection template_worker timeouts tool_calls verbalization/english/words verbalization/reading",
    "audio config models/conversion/file_formats models/t2c models/towers models/turns models/vocoder templates "
    "verbalization/english/rules",
    "data/engines data/features models/echox training/control verbalization/english",
    "models/conversion training/networks verbalization",
    "data data/templates streaming/reply_text training/checkpoints",
    "data/corpora data/corpora/nano data/corpora/talk data/corpora/tools data/shards evaluation/scoring "
    "streaming/prompt training/batches training/records units",
    "data/corpora/public/spoken data/corpora/public/texts evaluation/sets preparation streaming training",
    "api data/corpora/public serving/protocol training/stages/recordings",
    "evaluation/subjects preparation/conversations serving/access training/stages/dialogue training/stages/voice",
    "evaluation/judges evaluation/latency serving/service training/stages training/stages/hearing "
    "training/stages/speaking",
    "evaluation/interop/plugins/isolated evaluation/studies/batched_scores evaluation/studies/speech_policies "
    "serving/realtime/listening serving/rest training/memory",
    "evaluation/interop/plugins/ultraeval evaluation/studies serving/realtime serving/rest/responses",
    "evaluation serving/webrtc",
    "cli/common evaluation/evidence evaluation/interop serving",
    "cli/evaluation",
    "cli",
    "__main__",
)
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms.split()}
MODEL_LIBRARIES = {"torch", "transformers", "huggingface_hub", "safetensors", "numpy", "tokenizers", "budoux"}
HEAVY = {
    "aiortc",
    "av",
    "fastapi",
    "gradio",
    "lhotse",
    "matplotlib",
    "peft",
    "sounddevice",
    "tensorboard",
    "trackio",
    "uvicorn",
    "wandb",
}
# Who opens addresses with urllib: `fetch` sends no keys, whoever has a key takes `open_keyed`.
OPEN_ADDRESSES = {"keyed_requests.py", "data/corpora/fetch.py"}
# Made of these libraries' classes, and imported inside functions only.
SUBCLASSES = {
    "serving/access/uvicorn_protocols.py": {"uvicorn"},
    "serving/webrtc/data_guard.py": {"aiortc"},
    "serving/webrtc/peer.py": {"aiortc", "av"},
}


@functools.cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def room_of(path: Path) -> str:
    """``src/echox/models/t2c/modeling_t2c.py`` -> ``models/t2c``; ``src/echox/audio.py`` -> ``audio``."""
    inside = path.relative_to(PACKAGE)
    return inside.stem if inside.parent == Path() else inside.parent.as_posix()


@functools.cache
def imports_of(path: Path) -> list[tuple[int, str]]:
    """Absolute dotted names imported anywhere in a file, also inside functions, with their lines."""
    package = ["echox", *path.relative_to(PACKAGE).parent.parts]
    found = []
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            # ``from echox import x`` and ``from .. import x`` may name a module: judge the full name.
            found += [(node.lineno, f"{module}.{alias.name}") for alias in node.names]
    return found


def is_type_checking_only(path: Path) -> set[int]:
    """Lines inside ``if TYPE_CHECKING:``, which never run."""
    lines: set[int] = set()
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            lines |= set(range(node.lineno, (node.body[-1].end_lineno or node.lineno) + 1))
    return lines


@functools.cache
def file_of(name: str) -> Path | None:
    """The file of this package that an imported dotted name is in; None: another package."""
    parts = name.split(".")
    while parts and parts[0] == "echox":
        place = PACKAGE.joinpath(*parts[1:])
        for file in (place.with_suffix(".py"), place / "__init__.py"):
            if len(parts) > 1 and file.is_file():
                return file
        parts.pop()
    return None


def circles(arrows: dict[str, set[str]]) -> list[list[str]]:
    """Circles in a graph, each as the way from a node back to itself; every node is walked once."""
    found, done = [], set()

    def walk(node: str, way: list[str]) -> None:
        if node in way:
            found.append([*way[way.index(node) :], node])
        elif node not in done:
            for following in sorted(arrows.get(node, ())):
                walk(following, [*way, node])
            done.add(node)

    for node in sorted(arrows):
        walk(node, [])
    return found


def test_every_room_has_a_floor():
    assert {room_of(path) for path in FILES} - {"__init__"} == set(FLOOR_OF), "name the new room's floor here"


def test_imports_go_down_only():
    """Also those in functions and for type checking; rooms of one floor do not import each other."""
    upward = []
    for path in FILES:
        if path == PACKAGE / "__init__.py":  # the public names, loaded on first use
            continue
        room = room_of(path)
        for line, name in imports_of(path):
            imported = file_of(name)
            if imported is None or room_of(imported) == room:
                continue
            if FLOOR_OF[room_of(imported)] >= FLOOR_OF[room]:
                upward.append(f"{path.relative_to(PACKAGE)}:{line} ({room}) imports {name} ({room_of(imported)})")
    assert not upward, "\n".join(upward)


def test_files_import_in_no_circle():
    arrows = {
        str(path.relative_to(PACKAGE)): {
            str(imported.relative_to(PACKAGE))
            for _, name in imports_of(path)
            if (imported := file_of(name)) is not None and imported != path
        }
        for path in FILES
        if path != PACKAGE / "__init__.py"
    }
    assert not circles(arrows), "\n".join(" -> ".join(way) for way in circles(arrows))


def test_a_planted_circle_is_found():
    assert circles({"a": {"b"}, "b": {"c", "d"}, "c": {"a"}, "d": set()}) == [["a", "b", "c", "a"]]
    assert not circles({"a": {"b", "c"}, "b": {"c"}, "c": set()})


def test_models_could_be_lifted_into_transformers():
    strangers = []
    for path in FILES:
        if room_of(path).split("/")[0] != "models":
            continue
        for line, name in imports_of(path):
            first = name.split(".")[0]
            sibling = name.startswith("echox.models")
            if not (sibling or first in MODEL_LIBRARIES or first in sys.stdlib_module_names):
                strangers.append(f"{path.relative_to(PACKAGE)}:{line} imports {name}")
    assert not strangers, "\n".join(strangers)


def test_every_request_with_a_key_refuses_redirects():
    found = {
        path.relative_to(PACKAGE).as_posix()
        for path in FILES
        if any(name.startswith(("urllib.request", "http.client.HTTPConnection")) for _, name in imports_of(path))
    }
    assert found == OPEN_ADDRESSES, "open addresses with echox.keyed_requests.open_keyed"


def test_serving_sees_only_the_model_and_its_streams():
    strangers = [
        f"{path.relative_to(PACKAGE)}:{line} imports {name}"
        for path in FILES
        if room_of(path).split("/")[0] == "serving"
        for line, name in imports_of(path)
        if name.split(".")[0] == "echox"
        and name.split(".")[1]
        not in (
            "serving",
            "api",
            "streaming",
            "audio",
            "audio_decoding",
            "config",
            "errors",
            "process_memory",
            "process_threads",
            "timeouts",
            "tool_calls",
        )
    ]
    assert not strangers, "\n".join(strangers)


def test_heavy_extras_are_imported_where_they_are_used():
    """Optional and slow libraries stay inside functions, so that a missing extra costs only what it is for."""
    early = []
    for path in FILES:
        heavy = HEAVY - SUBCLASSES.get(str(path.relative_to(PACKAGE)), set())
        inside = {
            line
            for node in ast.walk(tree_of(path))
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
        }
        inside |= is_type_checking_only(path)
        early += [
            f"{path.relative_to(PACKAGE)}:{line} imports {name} at the top of the file"
            for line, name in imports_of(path)
            if name.split(".")[0] in heavy and line not in inside
        ]
    assert not early, "\n".join(early)


def modules_after(code: str) -> set[str]:
    """Top-level modules a fresh interpreter holds after ``code``."""
    script = f"{code}\nimport json, sys\nprint(json.dumps(sorted({{name.split('.')[0] for name in sys.modules}})))"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(json.loads(result.stdout.splitlines()[-1]))


def test_import_echox_is_light():
    loaded = modules_after("import echox; assert echox.__version__; assert 'EchoX' in dir(echox)")
    assert not loaded & (HEAVY | {"torch", "transformers", "numpy"})


@pytest.mark.slow
def test_public_names_load_without_the_extras():
    loaded = modules_after("from echox import AudioChunk, EchoX, Reply, TextDelta, load_recipe")
    assert "torch" in loaded
    assert not loaded & (HEAVY - {"av"})


def test_unknown_name_says_what_there_is():
    with pytest.raises(AttributeError, match="public names: .*EchoX"):
        echox.Echo  # noqa: B018


def test_files_of_tests_have_names_of_their_own():
    """They are modules without packages: pytest refuses a second one of the same name, once both are collected."""
    names = Counter(path.name for path in TESTS.rglob("*.py"))
    assert not [name for name, count in names.items() if count > 1 and name != "__init__.py"]
