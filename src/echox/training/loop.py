"""The only training loop. A stage defines model, data and loss; the loop does the rest.

Run any recipe with ``echox run RECIPE [key=value ...]`` (or ``python -m echox.training.loop``), on several processes
with ``torchrun --nproc-per-node N -m echox.training.loop RECIPE``.

Randomness is a function of the seed and the position in the data: dropout and sampling inside a step are seeded by the
number of the global micro-batch, augmentation by (seed, epoch, batch). So a resumed run equals an uninterrupted one,
evaluation does not change training, and N processes equal one process that accumulates N times as many batches.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from echox.config import TrainingConfig, dump_recipe, load_recipe, to_dict
from echox.errors import one_line
from echox.files import JsonObject
from echox.training.batches.normalisation import denominators_of_step
from echox.training.batches.step_batches import StepSource
from echox.training.batches.stream import BatchStream, MicroBatch, seed_everything
from echox.training.checkpoints.checkpoint import (
    TrainingProgress,
    checkpoint_path,
    checkpoints,
    load_checkpoint,
    newest_whole,
)
from echox.training.checkpoints.writing import CheckpointWriter
from echox.training.control.attempts import first_attempt
from echox.training.control.health import (
    NonFiniteLossError,
    check_everywhere,
    check_gradients,
    check_losses,
    check_norm,
    check_trainable,
)
from echox.training.control.lock import output_lock
from echox.training.control.schedule import checkpoint_due, due
from echox.training.control.stopping import NO, StopRequests, exit_status
from echox.training.evaluation import EvaluationsApart
from echox.training.final import write_final
from echox.training.networks.arithmetic import CountOperations, peak_tflop_per_s
from echox.training.networks.modules import autocast, compile_blocks, enable_gradient_checkpointing, set_training
from echox.training.networks.optim import (
    WeightAverage,
    build_optimizer,
    clip_gradients,
    learning_rate_factor,
    set_learning_rates,
)
from echox.training.networks.parallel import gathered, plain, process_group, shard
from echox.training.records.record import RECORD_NAME, RunLog, code_state, finished_record, peak_memory_mb, write_record
from echox.training.records.trackers import check_tracker
from echox.training.records.window import figures_of, sums_of, text_of
from echox.training.stage import Stage

NOTHING_HELD_OUT = (
    "{stage}: WARNING: expected held-out items for the evaluation, found none: give some items of the manifests "
    "another split than 'train' (echox data import makes one: --hold-out)"
)


def train(stage: Stage, config: TrainingConfig, resolved: JsonObject) -> dict[str, float]:
    """Train a stage; returns its final metrics, which are also in ``training_record.json`` beside the weights.

    Args:
        stage: what to train.
        config: steps, learning rates, precision and so on.
        resolved: the whole recipe as plain values, for the record and the check on resume.

    Raises:
        ValueError: wrong trainable parameters or groups, a checkpoint that does not fit, a wrong return value of the
            objective, a non-finite loss.
        OSError: a checkpoint could not be written.
        SystemExit: it was asked to stop, and has written a checkpoint (`training/control/stopping.py`).
    """
    with process_group(config) as (rank, world, device):
        run = _Run(stage, config, resolved, rank, world, device)
        with run.requests.noted():
            return run.run()


class _Run:
    """One training run in one process."""

    def __init__(
        self,
        stage: Stage,
        config: TrainingConfig,
        resolved: JsonObject,
        rank: int,
        world: int,
        device: torch.device,
    ) -> None:
        self.stage, self.config, self.resolved = stage, config, resolved
        self.rank, self.world, self.device = rank, world, device
        if config.packing and not getattr(stage, "packs", False):
            raise ValueError(f"training.packing: stage {stage.name!r} does not pack sequences; leave it out")
        stage.model.to(device)
        stage.objective.to(device)
        if config.compile:
            compile_blocks(stage.objective)
        sharded = world > 1 and config.parallel in ("fsdp", "hybrid")
        self.parts = shard(stage.objective, config, device) if sharded else []
        self.groups = stage.parameter_groups()
        check_trainable(stage.name, stage.objective, self.groups, config)
        if config.gradient_checkpointing:
            enable_gradient_checkpointing(stage.objective)
        self.optimizer = build_optimizer(self.groups, config)
        trainable = {name: value for name, value in stage.objective.named_parameters() if value.requires_grad}
        self.average = WeightAverage(trainable, config.ema_decay) if config.ema_decay else None
        self.progress = self._resume()
        self.writer = CheckpointWriter(config, resolved, bool(self.parts))
        self.taken: MicroBatch
        self.requests, self.asked = StopRequests(rank), NO
        self.operations: float | None = None
        self.log = RunLog(config, stage.name, self.progress, resolved) if rank == 0 else None
        self.apart = EvaluationsApart(config) if rank == 0 and config.evaluation_device is not None else None
        self.peak_tflop_per_s = config.peak_tflop_per_s or peak_tflop_per_s(device)
        self.module = self._wrap()

    def run(self) -> dict[str, float]:
        config, progress = self.config, self.progress
        wall_before, cpu_before = progress.wall_s - time.monotonic(), progress.cpu_s - time.process_time()
        if self.rank == 0:
            dump_recipe(self.resolved, Path(config.output_dir) / "recipe.yaml")
            if progress.step:
                self._say(f"{self.stage.name}: continuing after step {progress.step}")
        items, lengths, tokens = self.stage.dataset(), self.stage.lengths(), self._tokens()
        if not getattr(self.stage, "evaluation_items", True):
            self._say(NOTHING_HELD_OUT.format(stage=self.stage.name))

        def batches() -> StepSource:
            stream = BatchStream(items, lengths, self.stage.collate, config, progress, self.rank, self.world, tokens)
            return StepSource(stream, self.stage.objective, self.module, config, self.device, progress.step, self.world)

        if config.max_rollbacks and not checkpoints(config.output_dir):
            self._save_checkpoint()  # so that a rollback can return to the start
        source = batches()
        window: list[dict[str, float]] = []
        metrics: dict[str, float] = {}
        window_began_s = time.monotonic()
        first = progress.step
        try:
            while progress.step < config.steps:
                try:
                    window.append(self._step(source, check=progress.step == first))
                except NonFiniteLossError as error:
                    source.close()
                    self._roll_back(error)
                    source, window, window_began_s = batches(), [], time.monotonic()
                    continue
                progress.wall_s, progress.cpu_s = wall_before + time.monotonic(), cpu_before + time.process_time()
                self.writer.check()
                last = progress.step == config.steps
                if last or due(progress.step, config.log_every_steps):
                    self._log_window(window, time.monotonic() - window_began_s)
                    window, window_began_s = [], time.monotonic()
                evaluated_s = time.monotonic()
                stops = self.asked != NO and not last  # then time is short
                evaluates = not last and not stops and due(progress.step, config.evaluate_every_steps)
                samples = not stops and due(progress.step, config.sample_every_steps)
                apart = (evaluates or samples) and not last and config.evaluation_device is not None
                if evaluates and not apart:
                    metrics = self._evaluate()
                if samples and not apart:
                    self._sample()
                if last or stops or checkpoint_due(progress.step, config):
                    self._save_checkpoint()
                self._evaluate_apart(apart, samples)
                if stops:
                    self._complete_checkpoints()
                    self._say(f"{self.stage.name}: asked to stop, after step {progress.step}; run it again to continue")
                    raise SystemExit(exit_status(self.asked))
                window_began_s += time.monotonic() - evaluated_s
            metrics = self._evaluate()
            progress.wall_s, progress.cpu_s = wall_before + time.monotonic(), cpu_before + time.process_time()
            self._complete_checkpoints()
            self._finish(metrics)
        finally:
            source.close()
            self._say_if(None if self.apart is None else self.apart.close())
            if self.log is not None:
                self.log.close()
        return metrics

    def _tokens(self) -> list[int] | None:
        """Tokens of the training items, where batches are limited by them."""
        if self.config.max_batch_tokens is None:
            return None
        count = getattr(self.stage, "token_lengths", None)
        if count is None:
            raise ValueError(f"training.max_batch_tokens: stage {self.stage.name!r} counts no tokens; leave it out")
        return count()

    def _step(self, source: StepSource, check: bool) -> dict[str, float]:
        """One optimizer step; returns the mean losses of its micro-batches, gradient norm and items."""
        config, progress = self.config, self.progress
        number = progress.step + 1
        factor = learning_rate_factor(progress.step, config)
        set_learning_rates(self.optimizer, factor)
        set_training(self.module)
        totals: dict[str, float] = {}
        # What is compiled is counted once, as it must run uncompiled for that, with its backward pass.
        counts = self.operations is None if config.compile else due(number, config.log_every_steps)
        counted = CountOperations() if counts else None
        items, length = 0, 0.0
        broken: NonFiniteLossError | None = None
        taken = source.next()
        micros, batches = taken.micros, taken.batches
        self.taken = micros[-1]
        shared = None
        if config.accumulation_steps * self.world > 1:  # else the means of the one micro-batch are those of the step
            shared = denominators_of_step(self.stage.objective, batches, self.device)
        for accumulated, (micro, batch) in enumerate(zip(micros, batches, strict=True)):
            seed_everything(config.seed, micro.place)
            last = accumulated == config.accumulation_steps - 1
            if self.parts:
                self.parts[-1].set_requires_gradient_sync(last)
            with ExitStack() as entered:
                if isinstance(self.module, DistributedDataParallel) and not last:
                    entered.enter_context(self.module.no_sync())
                if config.compile and counted is not None:
                    entered.enter_context(torch.compiler.set_stance("force_eager"))
                with autocast(self.device, config.precision), counted or nullcontext():
                    losses = self.module(batch) if shared is None else self.module(batch, shared)
                try:
                    values = check_losses(losses, number)
                except NonFiniteLossError as error:  # raised below: other processes wait for this one's gradients
                    broken, values = error, {}
                losses["loss"].backward()
            for name, value in values.items():  # shares of the step's means are summed, other values averaged
                part = 1 if name == "loss" or name in (shared or ()) else config.accumulation_steps
                totals[name] = totals.get(name, 0.0) + value / part
            items, length = items + micro.items, length + micro.length
        for name, count in (shared or {}).items():
            if name not in totals and count > 0:  # another process has this part (reading a GPU's count waits for it)
                totals[name] = 0.0
        self.asked = check_everywhere(broken, self.requests.asked, number, self.device)
        if check:
            check_gradients(self.stage.name, self.stage.objective, self.groups, number)
        norm = float(clip_gradients(self.groups, config))  # over all processes, so it is the same in each
        check_norm(norm, number)  # before the step: it would spoil the weights of later checkpoints
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.update()
        progress.step, progress.epoch, progress.batch = number, micro.epoch_after, micro.batch_after
        figures = {"gradient_norm": norm, "learning_rate_factor": factor, "data_wait_s": taken.data_wait_s}
        if counted is not None:
            self.operations = counted.operations / max(length, 1e-9)
        if self.operations is not None and due(number, config.log_every_steps):
            figures["operations"] = self.operations
        return {**totals, **figures, **text_of([micro.tensors for micro in micros]), "items": items, "length": length}

    def _roll_back(self, error: NonFiniteLossError) -> None:
        """Return to the newest checkpoint and skip the batches since; all processes do so, or all stop.

        Raises: the error, after as many rollbacks as `training.max_rollbacks` allows.
        """
        progress, config, taken = self.progress, self.config, self.taken
        failed = progress.step + 1
        if progress.rollbacks >= config.max_rollbacks:
            raise error
        self.optimizer.zero_grad(set_to_none=True)
        self._complete_checkpoints()
        found = checkpoints(config.output_dir)[-1]
        back = load_checkpoint(found, self.stage.objective, self.optimizer, self.average, self.resolved)
        progress.step, progress.epoch, progress.batch = back.step, taken.epoch_after, taken.batch_after
        if self.log is not None:
            self.log.drop_entries_after(progress)
            self.log.write(back.step, {"failed_step": failed, "rollbacks": progress.rollbacks + 1}, kind="rollback")
        progress.rollbacks += 1
        self._say(
            f"{self.stage.name}: {error}. Back to step {back.step}; the batches since are skipped "
            f"(rollback {progress.rollbacks} of {config.max_rollbacks})"
        )

    def _log_window(self, window: list[dict[str, float]], seconds: float) -> None:
        """Mean over the steps since the last entry and over all processes."""
        sums, counts = sums_of(window, self.world, self.device)
        unit = getattr(self.stage, "length_unit", (None, 0.0))
        peak = None if self.peak_tflop_per_s is None else self.world * self.peak_tflop_per_s
        values = figures_of(sums, counts, seconds, unit, peak)
        values |= {"step_s": seconds / len(window), **peak_memory_mb(self.device)}
        if self.log is not None:
            self.log.write(self.progress.step, values)

    def _evaluate(self) -> dict[str, float]:
        metrics: dict[str, float] = {}
        if self._takes_part:
            with self._resting():
                metrics = {name: float(value) for name, value in self.stage.evaluate().items()}
        if self.log is not None:
            if not metrics:
                self._say(NOTHING_HELD_OUT.format(stage=self.stage.name))
            self.log.write(self.progress.step, metrics, kind="evaluation")
        self._wait()
        return metrics

    def _evaluate_apart(self, asked: bool, samples: bool) -> None:
        """Have the newest checkpoint evaluated by another process, where that is due, and log what one has found."""
        if self.apart is None:
            return
        found = self.apart.look()
        if found is not None:
            step, figures, fault = found
            self._say_if(fault)
            if fault is None and self.log is not None:
                self.log.write(step, figures, kind="evaluation")
        if asked:
            self._say_if(self.apart.ask(checkpoint_path(self.config.output_dir, self.progress.step), samples))
        self.writer.spared = self.apart.checkpoint

    def _sample(self) -> None:
        if self._takes_part and hasattr(self.stage, "sample"):
            with TemporaryDirectory() as unused:
                folder = Path(self.config.output_dir) / "samples" / f"step_{self.progress.step:07d}"
                folder = folder if self.rank == 0 else Path(unused)
                folder.mkdir(parents=True, exist_ok=True)
                with self._resting():
                    self.stage.sample(folder)
        self._wait()

    @property
    def _takes_part(self) -> bool:
        """Whether this process shares the work of the first: a sharded model needs all processes in each forward."""
        return self.rank == 0 or bool(self.parts)

    @contextmanager
    def _resting(self) -> Iterator[None]:
        """Evaluation mode, no gradients, averaged weights in place."""
        averaged: AbstractContextManager = self.average.applied() if self.average else nullcontext()
        self.stage.model.eval()
        self.stage.objective.eval()
        with averaged, gathered(self.parts), torch.inference_mode(), autocast(self.device, self.config.precision):
            yield

    def _save_checkpoint(self) -> None:
        if self._takes_part:
            self.writer.save(self.stage.objective, self.optimizer, self.average, self.progress)
        if not self.config.save_in_background:
            self._wait()

    def _complete_checkpoints(self) -> None:
        """Until all processes can read the newest."""
        self.writer.wait()
        self._wait()

    def _resume(self) -> TrainingProgress:
        found = checkpoints(self.config.output_dir)
        # A later attempt continues what the first one has begun anew.
        if not self.config.resume and first_attempt(self.device):
            self._wait()
            if self.rank == 0:  # otherwise a later resume would continue the old run, or take it for finished
                shutil.rmtree(Path(self.config.output_dir) / "checkpoints", ignore_errors=True)
                (Path(self.config.output_dir) / RECORD_NAME).unlink(missing_ok=True)
            self._wait()
            return TrainingProgress()
        newest = newest_whole(found, self.config.skip_damaged)
        if newest is None:
            return TrainingProgress()
        folder, state = newest
        return load_checkpoint(folder, self.stage.objective, self.optimizer, self.average, self.resolved, state)

    def _finish(self, metrics: dict[str, float]) -> None:
        """Final weights, then the record."""
        averaged: AbstractContextManager = self.average.applied() if self.average and self.parts else nullcontext()
        whole_weights = plain(self.stage.objective, keep=self.rank == 0) if self.parts else nullcontext()
        with averaged, whole_weights:
            if self.rank == 0:
                with nullcontext() if self.parts else self._resting():
                    write_final(self.stage, Path(self.config.output_dir))
                details = getattr(self.stage, "record_details", None)
                write_record(self.stage.name, self.config, self.resolved, self.progress, metrics, self.world, details)
        self._wait()

    def _wrap(self) -> nn.Module:
        module: nn.Module = self.stage.objective
        if self.world > 1 and not self.parts:
            ids = [self.device] if self.device.type == "cuda" else None
            return DistributedDataParallel(module, ids, find_unused_parameters=self.config.find_unused_parameters)
        return module

    def _say(self, line: str) -> None:
        if self.log is not None:
            self.log.say(line)

    def _say_if(self, line: str | None) -> None:
        if line is not None:
            self._say(f"{self.stage.name}: {line}")

    def _wait(self) -> None:
        if self.world > 1:
            dist.barrier()


# ------------------------------------------------------------------------------------------------ command


def run_recipe(path: str | Path, overrides: Sequence[str] = ()) -> JsonObject:
    """Run any recipe: train its stage, or, for stages without training (corpus, units), call ``run()``.

    A finished run is not repeated (unless ``training.resume=false``). A run in a folder that another process uses is
    refused.

    Returns: the final metrics.
    Raises: ValueError, OSError: see `load_recipe`, `train` and the stage.
    """
    return run_loaded(load_recipe(path, overrides))


def run_loaded(recipe: Any) -> JsonObject:
    """:func:`run_recipe` for a recipe that `load_recipe` has returned."""
    code_state()
    if hasattr(recipe, "run"):
        return recipe.run() or {}
    config, resolved = recipe.training, to_dict(recipe)
    record = finished_record(config, resolved)
    if record is not None:
        print(f"{recipe.stage}: already trained ({config.output_dir}, {record['steps']} steps)", flush=True)
        return record["metrics"]
    if config.threads:
        torch.set_num_threads(config.threads)
    check_tracker(config.tracker)
    with output_lock(config.output_dir):
        seed_everything(config.seed)
        return train(recipe.build(), config, resolved)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line: RECIPE [key=value ...]; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m echox.training.loop", description="Run a recipe.")
    parser.add_argument("recipe", help="YAML file, for example recipes/nano/lm.yaml")
    parser.add_argument("overrides", nargs="*", help="key=value, for example training.steps=100")
    parser.add_argument("--overfit-one-batch", action="store_true", help="train on the first batch only")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    options = parser.parse_args(arguments)
    overrides = [*options.overrides, *(["training.overfit_one_batch=true"] if options.overfit_one_batch else [])]
    try:
        run_recipe(options.recipe, overrides)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except Exception as error:  # the outermost boundary: --debug shows the traceback
        if options.debug:
            raise
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
