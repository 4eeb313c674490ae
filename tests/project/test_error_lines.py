"""Errors in one line: a missing module names the extra that has it, missing memory a way out."""

import ast
import re
import sys
from importlib.metadata import packages_distributions

import pytest
import torch
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from echox.errors import one_line
from paths import ROOT

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = {
    extra: {canonicalize_name(Requirement(line).name) for line in lines}
    for extra, lines in PROJECT["optional-dependencies"].items()
}
IN_EXTRAS = set().union(*EXTRAS.values()) - {"echox"}
COMES_WITH = {"aioice": "aiortc"}  # imported beside the package that brings it
NO_EXTRA = {  # asked for by name where they are used, or the surroundings of code that is written for others
    "audio_evals",
    "huggingface_hub",
    "fsspec",
    "pocketsphinx",
    "torchao",
    "typing_extensions",
}


def imported() -> set[str]:
    """Every module of others that the package imports somewhere, at the top of a file or inside a function."""
    found = set()
    for path in (ROOT / "src/echox").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                found.add(node.module)
    return {name.partition(".")[0] for name in found} - sys.stdlib_module_names - {"echox"}


@pytest.fixture
def declared(monkeypatch):
    """Metadata as a wheel built now would have it."""
    lines = list(PROJECT["dependencies"])
    for extra, wanted in PROJECT["optional-dependencies"].items():
        lines += [f"{line.partition(' ;')[0]}; extra == '{extra}'" for line in wanted]
    monkeypatch.setattr("echox.errors.requires", lambda name: lines)


def test_every_module_that_is_missing_names_what_brings_it(declared):
    needed = {canonicalize_name(Requirement(line).name) for line in PROJECT["dependencies"]}
    distributions = packages_distributions()
    optional = 0
    for module in sorted(imported() - NO_EXTRA):
        said = one_line(ModuleNotFoundError(f"No module named '{module}.inner'", name=f"{module}.inner"))
        named = re.search(r"; pip install '([^']+)'$", said)[1]
        packages = {canonicalize_name(one) for one in distributions.get(module, [COMES_WITH.get(module, module)])}
        packages |= {COMES_WITH[module]} if module in COMES_WITH else set()
        if packages & needed:
            assert canonicalize_name(named) in packages, said
            continue
        optional += 1
        extra = re.fullmatch(r"echox\[([\w-]+)\]", named)
        assert extra, f"{said}: expected one of the extras of {packages & IN_EXTRAS}, or {module} in NO_EXTRA"
        assert packages & EXTRAS[extra[1]], said
    assert optional > 15


def test_what_no_extra_has_is_named_itself(declared):
    for module in NO_EXTRA:
        package = module.replace("_", "-")
        assert one_line(ModuleNotFoundError("No such", name=module)).endswith(f"; pip install '{package}'")


def test_commands_in_texts_name_extras_that_are_there():
    known = EXTRAS.keys()
    for folder in ("src/echox", "docs", "examples", "."):
        for path in (ROOT / folder).glob("*.md" if folder == "." else "**/*"):
            if path.suffix in (".py", ".md", ".yaml"):
                for named in re.findall(r"echox\[([a-z,]+)\]", path.read_text(encoding="utf-8")):
                    assert set(named.split(",")) <= known, f"{path}: {named}"


@pytest.mark.parametrize(
    "error", [ImportError("--ray: expected ray, found none; pip install 'echox[ray]'"), ImportError("cannot import it")]
)
def test_an_import_error_with_its_own_words_is_left(error):
    assert one_line(error) == str(error)


def test_a_module_of_ours_is_not_for_pip():
    assert "pip" not in one_line(ModuleNotFoundError("No module named 'echox.gone'", name="echox.gone"))


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError(
            "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 7.79 GiB of which 1.00 MiB "
            "is free. Process 1 has 7 GiB memory in use. If reserved but unallocated memory is large try setting ..."
        ),
        RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] data. DefaultCPUAllocator: can't allocate memory: you tried"),
        MemoryError(),
        MemoryError("Unable to allocate 9.31 GiB for an array"),
    ],
    ids=lambda error: str(error)[:20] or "empty",
)
def test_missing_memory_has_a_way_out(error):
    said = one_line(error)
    assert said.startswith("expected enough memory, found: ")
    assert "--device cpu" in said
    assert "unexpected" not in said
    assert "If reserved" not in said
    assert "\n" not in said


def test_another_error_at_run_time_stays_unexpected():
    assert one_line(RuntimeError("shapes differ")).startswith("unexpected RuntimeError: shapes differ (run again")
