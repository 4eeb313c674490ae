"""Training on several processes: a whole copy in each (DDP), or a shard of every weight in each (FSDP2).

Hybrid: shards over the processes of a machine, which exchange weights in every step, and copies on the other machines,
which exchange gradients. With FSDP2, transformer blocks whose weights are read in their forward only are gathered one
by one, as they run. All other weights (adapters, heads, unit decoders, the T2C) are gathered once for the whole forward
of the objective. Frozen weights are sharded too, but for a teacher's.

All processes gather in one order. So each runs the same blocks in every forward, whatever is in its own batch
(`S2TForConditionalGeneration.hear_nothing`).

Source: PyTorch FSDP2, https://docs.pytorch.org/docs/stable/distributed.fsdp.fully_shard.html
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from echox.config import TrainingConfig
from echox.device import choose_device
from echox.training.networks.modules import transformer_blocks

READ_FROM_OUTSIDE = ("echo_decoder", "decoder", "t2c", "recogniser")
"""Parts whose blocks' weights are read directly (`LeanSteps`, `MoonshineRecogniser`), so they cannot be gathered block
by block."""
KEPT_WHOLE = ("t2c",)
"""Frozen parts that each process has whole and as they are: the teacher of stage "echo" is asked by one process and not
by the next, or in a thread, and writes in full precision what it would write in any other run (`LabelCache`)."""


def number_of_processes() -> int:
    """Of this training, as torchrun says; also before they have met in `process_group`."""
    return int(os.environ.get("WORLD_SIZE", 1))


@contextmanager
def process_group(config: TrainingConfig) -> Iterator[tuple[int, int, torch.device]]:
    """(rank, world size, device); joins the group when started by torchrun, leaves it at the end."""
    device = choose_device(config.device)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if config.threads:
        torch.set_num_threads(config.threads)
    world = number_of_processes()
    if world == 1:
        yield 0, 1, device
        return
    _join(device)
    try:
        yield dist.get_rank(), world, device
    finally:
        dist.destroy_process_group()


def _join(device: torch.device) -> None:
    backend = "nccl" if device.type == "cuda" else "gloo"
    # The others wait while the first process evaluates and saves: with a large model longer than nccl's ten minutes.
    timeout = timedelta(hours=2)
    world, attempt = number_of_processes(), os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    shared = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    if not shared or attempt == "0" or os.environ.get("LOCAL_WORLD_SIZE") != str(world):
        dist.init_process_group(backend, timeout=timeout)
        return
    # torchrun's store survives a restart (torch 2.13), and holds addresses of processes that have ended. On several
    # machines each counts its own attempts: there torchrun needs an option to make a new store (docs/training.md).
    left = dist.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), world, False, timeout)
    store = dist.PrefixStore(f"attempt_{attempt}", left)
    dist.init_process_group(backend, store=store, rank=int(os.environ["RANK"]), world_size=world, timeout=timeout)


def shard(objective: nn.Module, config: TrainingConfig, device: torch.device) -> list[FSDPModule]:
    """Shard a module over all processes or those of each machine, in place; returns its parts, the root last.

    Raises:
        ValueError: parameters of different types (a gathered group has one); see `sharding_mesh`.
    """
    mesh, policy = sharding_mesh(config, device), precision_policy(config.precision, device)
    offload = CPUOffloadPolicy() if config.cpu_offload else OffloadPolicy()
    blocks = blocks_to_shard(objective)
    for block in blocks:
        fully_shard(block, mesh=mesh, mp_policy=policy, offload_policy=offload)
    fully_shard(
        objective,
        mesh=mesh,
        mp_policy=replace(policy, cast_forward_inputs=False),  # losses and inputs keep their types
        offload_policy=offload,
        reshard_after_forward=False,
        ignored_params=set(kept_whole(objective)),
    )
    return [*blocks, objective]  # type: ignore[list-item]


def precision_policy(precision: str, device: torch.device) -> MixedPrecisionPolicy:
    """Types of sharded weights: gathered in bfloat16 for "bf16" on a GPU, else in their own.

    Gradients are accumulated and summed over processes in float32, as one process does it.
    """
    half = torch.bfloat16 if precision == "bf16" and device.type == "cuda" else None
    return MixedPrecisionPolicy(param_dtype=half, reduce_dtype=torch.float32)


def kept_whole(objective: nn.Module) -> list[nn.Parameter]:
    """The weights that are not sharded; see `KEPT_WHOLE`."""
    named = objective.named_parameters()
    return [value for name, value in named if set(name.split(".")) & set(KEPT_WHOLE) and not value.requires_grad]


def sharding_mesh(config: TrainingConfig, device: torch.device) -> DeviceMesh:
    """The processes as FSDP2 wants them: in a row, or, for hybrid sharding, a row for each machine.

    Raises:
        ValueError: hybrid sharding on machines of different numbers of processes, or that torchrun did not start.
    """
    world = dist.get_world_size()
    if config.parallel != "hybrid":
        return init_device_mesh(device.type, (world,))
    found: list[int] = [0] * world
    dist.all_gather_object(found, int(os.environ.get("LOCAL_WORLD_SIZE", 0)))
    inside = found[0]
    if set(found) != {inside} or inside < 1 or world % inside:
        raise ValueError(
            "training.parallel=hybrid: expected as many processes on each machine (LOCAL_WORLD_SIZE, which torchrun "
            f"sets), found {sorted(set(found))} of {world}; start all with the same --nproc-per-node, or take "
            "training.parallel=fsdp"
        )
    return init_device_mesh(device.type, (world // inside, inside), mesh_dim_names=("machine", "process"))


def blocks_to_shard(objective: nn.Module) -> list[nn.Module]:
    """Transformer blocks (``_no_split_modules`` of their models) whose weights are read in their forward only."""
    return [
        block
        for name, block in transformer_blocks(objective).items()
        if not set(name.split(".")) & set(READ_FROM_OUTSIDE) and any(True for _ in block.parameters())
    ]


@contextmanager
def gathered(parts: Sequence[FSDPModule]) -> Iterator[None]:
    """Within the ``with`` block every process holds all weights as plain tensors; all must run the same parts in it."""
    for part in parts:
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()
    try:
        yield
    finally:
        for part in parts:
            part.set_reshard_after_forward(part is not parts[-1], recurse=False)
            part.reshard()


@contextmanager
def plain(module: nn.Module, keep: bool) -> Iterator[None]:
    """Within the ``with`` block `module` holds whole weights where `keep`: to save, not to run. All processes enter."""
    kept: list[tuple[nn.Module, str, nn.Parameter]] = []
    for part in module.modules():
        for name, value in list(part.named_parameters(recurse=False)):
            full = whole(value.detach())
            if keep and isinstance(value, DTensor):
                kept.append((part, name, value))
                part._parameters[name] = nn.Parameter(full, requires_grad=value.requires_grad)
    try:
        yield
    finally:
        for part, name, value in kept:
            part._parameters[name] = value


def is_sharded(module: nn.Module) -> bool:
    """Whether `shard` was called on it."""
    return isinstance(module, FSDPModule)


def whole(value: Tensor) -> Tensor:
    """The whole of a tensor that may be sharded (then all processes must call this)."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def local(value: Tensor) -> Tensor:
    """This process's part of a tensor that may be sharded; shares memory with it."""
    return value.to_local() if isinstance(value, DTensor) else value


def copy_in(value: Tensor, target: Tensor) -> None:
    """Copy a whole tensor into one that may be sharded."""
    if isinstance(target, DTensor):
        value = distribute_tensor(value.to(target.device), target.device_mesh, target.placements)
    local(target).copy_(local(value))
