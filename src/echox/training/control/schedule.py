"""What is due after a step: the log, an evaluation, samples, a checkpoint."""

from __future__ import annotations

from echox.config import TrainingConfig


def due(step: int, every: int) -> bool:
    """Whether something that happens every so many steps happens after this one; 0: it never does."""
    return every > 0 and step % every == 0


def checkpoint_due(step: int, config: TrainingConfig) -> bool:
    """Whether a checkpoint is, for itself or for another process that evaluates it."""
    every = [config.save_every_steps]
    if config.evaluation_device is not None:
        every += [config.evaluate_every_steps, config.sample_every_steps]
    return any(due(step, steps) for steps in every)
