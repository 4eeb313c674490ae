"""``echox doctor`` and ``echox estimate-memory``: what this machine has, and what a model needs."""

import os
import platform
from importlib.metadata import Distribution, PackageNotFoundError, distributions, version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from echox.cli.common.machine import free_bytes
from echox.cli.common.options import Debug, TalkingModel, default_model, guarded

if TYPE_CHECKING:
    from echox.models.echox.configuration_echox import EchoXConfig
    from echox.training.memory.estimate import Workload

PACKAGES = (
    "torch",
    "transformers",
    "numpy",
    "soundfile",
    "soxr",
    "av",
    "peft",
    "lhotse",
    "sounddevice",
    "bitsandbytes",
    "torchao",
)
EIGHT_BIT_KERNELS = {
    "integer": "multiplied as integers (this CPU adds 8-bit products exactly)",
    "weight_only": "multiplied as floats (this CPU's sums of 8-bit products overflow)",
}
"""What `doctor` prints about the kernel that ``--dtype int8`` uses on this machine."""

CONFIGURATIONS = "recipes/*/config.json"
"""Configurations of models without weights, in a checkout of the repository."""


@guarded
def doctor(model: TalkingModel = None, debug: Debug = False) -> None:
    """Print what this machine has (versions, devices, free memory), what each model needs, and whether it fits."""
    import torch

    from echox.api.loading import EMBEDDED_MODELS, embedded_folder, find_model
    from echox.api.parts import read_parts
    from echox.files import folder_bytes
    from echox.models.quantization.int8_linear import best_kernel

    typer.echo(f"echox         {_installed('echox')}, Python {platform.python_version()}, {platform.platform()}")
    parts = [part for name in EMBEDDED_MODELS for part in read_parts(embedded_folder(name))]
    for name in (*PACKAGES, *(part.requirement.partition("==")[0] for part in parts)):
        typer.echo(f"{name:<13} {_installed(name)}")
    for line in torch_build():
        typer.echo(f"torch build   {line}")
    typer.echo(
        f"processor     {torch.backends.cpu.get_cpu_capability()}; {torch.get_num_threads()} threads of "
        f"{os.cpu_count()} processors"
    )
    typer.echo(f"8-bit weights {EIGHT_BIT_KERNELS[best_kernel()]}")
    for name, free in free_bytes().items():
        typer.echo(f"memory        {name}: {free / 1e9:.1f} GB free")
    for line in devices():
        typer.echo(f"device        {line}")
    model = model or default_model()
    folder = find_model(model)
    typer.echo(f"model         {model}: {folder} ({folder_bytes(folder) / 1e6:.1f} MB)")
    described = {model: folder} | {file.parent.as_posix(): file.parent for file in sorted(Path().glob(CONFIGURATIONS))}
    for name, place in described.items():
        _say_fit(name, place)


@guarded
def estimate_memory(
    model: Annotated[
        str,
        typer.Argument(help="Model folder, folder with a config.json, hub id, 'nano', or a stage's recipe (.yaml)."),
    ] = "nano",
    overrides: Annotated[list[str] | None, typer.Argument(help="Of a recipe: key=value, as for echox run.")] = None,
    dtype: Annotated[str, typer.Option(help="Of weights that are not trained: float32, bfloat16, int8, nf4.")] = "",
    stage: Annotated[str, typer.Option(help="Of training: lm, encoder, s2t, t2c, echo; none: inference.")] = "",
    batch_size: Annotated[int | None, typer.Option(min=1, help="Rows (default: the recipe's, or 4).")] = None,
    tokens: Annotated[int, typer.Option(min=1, help="Positions of a row (inference: of a session).")] = 512,
    audio_s: Annotated[float, typer.Option(min=0.1, help="Seconds of speech of a row.")] = 5.0,
    sessions: Annotated[int, typer.Option(min=1, help="Conversations at a time.")] = 1,
    processes: Annotated[
        int,
        typer.Option(min=1, help="Of training: processes (GPUs; hybrid: of a machine); memory is of each."),
    ] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
    debug: Debug = False,
) -> None:
    """Estimate memory from sizes alone: by part for inference, by kind for a stage of training. Loads no weights."""
    import json

    from echox.training.memory.estimate import OFFLOADED, Workload, inference_bytes, training_bytes

    asked = Workload(tokens=tokens, reply_tokens=max(1, tokens // 2), audio_s=audio_s, processes=processes)
    config, stage, work = _workload(model, stage, dtype, batch_size, asked, overrides or [])
    if stage:
        found = training_bytes(config, stage, work)
    else:
        found = inference_bytes(config, work.frozen_dtype, tokens, sessions)
    total = sum(value for name, value in found.items() if name != OFFLOADED)
    if as_json:
        typer.echo(json.dumps({"model": model, "stage": stage or None, "bytes": found, "total_bytes": total}))
        return
    what = f"training stage {stage}, {work.batch_size} rows of {work.tokens} positions" if stage else "inference"
    if stage in ("s2t", "echo"):
        what += f" ({work.kept_frames} of them for {work.audio_s:g} s of speech)"
    if stage and work.processes > 1:
        what += f", each of {work.processes} processes ({work.parallel})"
    typer.echo(f"{model}: {what}, {'frozen language model in ' if stage else ''}{work.frozen_dtype}")
    for name, value in [*found.items(), ("all", total)]:
        typer.echo(f"  {name:<28} {value / 1e9:9.3f} GB")
    for name, free in free_bytes().items():
        typer.echo(f"  {name}: {free / 1e9:.1f} GB free: {'fits' if total < free else 'does not fit'}")


def torch_build() -> list[str]:
    """The installed build of torch, its size on disk (CUDA packages included), and a smaller build if one is enough."""
    import torch

    sizes = {
        name: _size_bytes(found)
        for found in distributions()
        if (name := (found.metadata["Name"] or "").lower()) in ("torch", "triton") or name.startswith("nvidia-")
    }
    beside = len(sizes) - 1
    total_mb = sum(sizes.values()) / 1e6
    if torch.version.cuda is None and torch.version.hip is None:
        kind = "CPU only" if platform.system() != "Darwin" else "CPU and Metal"
    else:
        kind = f"CUDA {torch.version.cuda}" if torch.version.cuda else f"ROCm {torch.version.hip}"
    lines = [f"{kind}, {total_mb:,.0f} MB on disk" + (f" with {beside} packages beside it" if beside > 0 else "")]
    if kind.startswith("CUDA") and not torch.cuda.is_available():
        lines.append(
            "no GPU is used here, and the CPU build takes a tenth of that: make serve installs it; docs/serving.md has "
            "the commands for pip and uv"
        )
    return lines


def devices() -> list[str]:
    """What ``--device auto`` computes on here, and each GPU that torch does not use, with the reason."""
    import torch

    from echox.device import fault_of, nvidia_gpus, why_unused

    if not torch.cuda.is_available():
        unused = [f"not used: {why_unused(gpu)}" for gpu in nvidia_gpus()]
        return [*unused, "cpu" if unused else "cpu; no GPU, which nano and mini do not need"]
    faults = [fault_of(torch.device(f"cuda:{index}")) for index in range(torch.cuda.device_count())]
    lines = [f"not used: {fault}" for fault in faults if fault is not None]
    return [*lines, "cpu" if faults[0] is not None else "cuda:0"]


def _size_bytes(package: Distribution) -> int:
    paths = (Path(str(file.locate())) for file in package.files or ())
    return sum(path.stat().st_size for path in paths if path.is_file())


def _workload(
    model: str, stage: str, dtype: str, batch_size: int | None, work: "Workload", overrides: list[str]
) -> "tuple[EchoXConfig, str, Workload]":
    """Configuration, stage and workload of a command: those of its recipe, changed by its options."""
    from dataclasses import replace

    from echox.training.memory.of_recipe import workload_of

    path = Path(model)
    if stage and (path / f"{stage}.yaml").is_file():  # a folder of recipes: take the recipe of the stage
        path = path / f"{stage}.yaml"
    if path.suffix in (".yaml", ".yml"):
        own_stage, work = workload_of(path, overrides, work)
        stage = stage or own_stage
        model = str(path.parent) if (path.parent / "config.json").is_file() else "nano"
    elif overrides:
        raise ValueError(f"overrides: expected a recipe (.yaml) to change, found {model!r}")
    if dtype:
        work = replace(work, frozen_dtype=dtype)
    if batch_size is not None:
        work = replace(work, batch_size=batch_size, audios=0)
    return _configuration(model), stage, work


def _configuration(model: str) -> "EchoXConfig":
    from echox.api.loading import find_model
    from echox.models.echox.configuration_echox import EchoXConfig

    return EchoXConfig.from_pretrained(find_model(model))


def _say_fit(name: str, folder: Path) -> None:
    from echox.training.memory.estimate import inference_bytes

    config = _configuration(str(folder))
    needs = {dtype: sum(inference_bytes(config, dtype, 2048, 1).values()) for dtype in ("float32", "bfloat16", "int8")}
    listed = ", ".join(f"{dtype} {value / 1e9:.2f} GB" for dtype, value in needs.items())
    largest = max(free_bytes().values(), default=0.0)
    fitting = [dtype for dtype, value in needs.items() if value < largest]
    typer.echo(f"needs         {name}: {listed}: {'fits as ' + ', '.join(fitting) if fitting else 'does not fit here'}")


def _installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
