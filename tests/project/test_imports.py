"""The floors: imports go down only, light things import lightly."""

import ast
import functools
import json
import subprocess
import sys
from pathlib import Path

import pytest

import echox

PACKAGE = Path(echox.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))

# docs/architecture.md: a module may import its own floor and the floors below.
FLOORS = {
    "config": 0,
    "audio": 0,
    "audio_decoding": 0,
    "device": 0,
    "errors": 0,
    "files": 0,
    "models": 0,
    "speech_detection": 0,
    "template_worker": 0,
    "templates": 0,
    "verbalization": 0,
    "units": 1,
    "data": 1,
    "training": 2,
    "streaming": 2,
    "evaluation": 3,
    "memory": 3,
    "memory_recipe": 3,
    "memory_rehearsal": 3,
    "serving": 3,
    "cli": 4,
    "cli_analyze": 4,
    "cli_bench": 4,
    "cli_convert": 4,
    "cli_data": 4,
    "cli_doctor": 4,
    "cli_eval": 4,
    "cli_options": 4,
    "cli_serve": 4,
    "cli_ui": 4,
    "__main__": 4,
}
MODEL_LIBRARIES = {"torch", "transformers", "safetensors", "numpy", "tokenizers", "budoux"}
HEAVY = {"av", "fastapi", "gradio", "lhotse", "matplotlib", "peft", "sounddevice", "tensorboard", "uvicorn"}
SUBCLASSES = {
    "serving/access/uvicorn_protocols.py": "uvicorn"
}  # made of that library's classes, and imported inside functions only


@functools.cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def top_of(path: Path) -> str:
    """``src/echox/models/echox/modeling_s2t.py`` -> ``models``; ``src/echox/cli/main.py`` -> ``cli``."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


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


def test_every_file_has_a_floor():
    assert {top_of(path) for path in FILES} - {"__init__"} <= set(FLOORS), (
        "name the new folder's floor here and in docs"
    )


def test_imports_go_down_only():
    upward = []
    for path in FILES:
        if path == PACKAGE / "__init__.py":  # the public names, loaded on first use
            continue
        floor = FLOORS[top_of(path)]
        for line, name in imports_of(path):
            parts = name.split(".")
            if parts[0] == "echox" and len(parts) > 1 and FLOORS.get(parts[1], 0) > floor:
                upward.append(f"{path.relative_to(PACKAGE)}:{line} (floor {floor}) imports {name} ({FLOORS[parts[1]]})")
    assert not upward, "\n".join(upward)


def test_models_could_be_lifted_into_transformers():
    strangers = []
    for path in FILES:
        if top_of(path) != "models":
            continue
        for line, name in imports_of(path):
            first = name.split(".")[0]
            sibling = name.startswith("echox.models")
            if not (sibling or first in MODEL_LIBRARIES or first in sys.stdlib_module_names):
                strangers.append(f"{path.relative_to(PACKAGE)}:{line} imports {name}")
    assert not strangers, "\n".join(strangers)


def test_serving_sees_only_streaming():
    strangers = [
        f"{path.relative_to(PACKAGE)}:{line} imports {name}"
        for path in FILES
        if top_of(path) == "serving"
        for line, name in imports_of(path)
        if name.split(".")[0] == "echox"
        and name.split(".")[1] not in ("serving", "streaming", "audio", "audio_decoding", "config", "errors")
    ]
    assert not strangers, "\n".join(strangers)


def test_heavy_extras_are_imported_where_they_are_used():
    """Optional and slow libraries stay inside functions, so that a missing extra costs only what it is for."""
    early = []
    for path in FILES:
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
            if name.split(".")[0] in HEAVY - {SUBCLASSES.get(str(path.relative_to(PACKAGE)))} and line not in inside
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


def test_public_names_load_without_the_extras():
    loaded = modules_after("from echox import AudioChunk, EchoX, Reply, TextDelta, load_recipe")
    assert "torch" in loaded
    assert not loaded & (HEAVY - {"av"})


def test_unknown_name_says_what_there_is():
    with pytest.raises(AttributeError, match="public names: .*EchoX"):
        echox.Echo  # noqa: B018
