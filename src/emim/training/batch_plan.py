"""Batch size of each device, gradient accumulation, and the learning rate scaled to the batch.

The recipe sets the clips of one optimiser step (the global batch), memory limits the clips of one pass, and the number
of passes per step follows.
"""

from __future__ import annotations

from dataclasses import dataclass

from emim.errors import ConfigError
from emim.training.config import OptimConfig, TrainerConfig

__all__ = ["BatchPlan", "plan_batches"]


@dataclass(frozen=True)
class BatchPlan:
    """The batch of a run.

    Attributes:
        batch_size: clips per device and pass, before repeated augmentation.
        accumulate: passes per optimiser step.
        world: number of devices.
        repeats: draws of each clip.
        lr: peak learning rate of this run.
        lr_note: derivation of `lr`, for the log.
    """

    batch_size: int
    accumulate: int
    world: int
    repeats: int
    lr: float
    lr_note: str

    @property
    def global_batch(self) -> int:
        """Clips per optimiser step over all devices, before repeated augmentation."""
        return self.batch_size * self.accumulate * self.world

    @property
    def division(self) -> tuple[int, int, int]:
        """Clips per device and pass, passes, and devices of a step."""
        return self.batch_size, self.accumulate, self.world

    def __str__(self) -> str:
        parts = [f"{self.batch_size} on each of {self.world} devices" if self.world > 1 else f"{self.batch_size}"]
        if self.accumulate > 1:
            parts.append(f"{self.accumulate} passes")
        drawn = f", each drawn {self.repeats} times" if self.repeats > 1 else ""
        made = f" ({' x '.join(parts)})" if len(parts) > 1 or self.world > 1 else ""
        return f"{self.global_batch} clips a step{made}{drawn}; learning rate {self.lr:g}{self.lr_note}"


def plan_batches(trainer: TrainerConfig, optim: OptimConfig, *, world: int, fits: int | None = None) -> BatchPlan:
    """Work out the batch and the learning rate.

    Args:
        trainer: `global_batch`, `batch_size`, `accumulate` and `repeats` apply.
        optim: `lr` and `lr_batch` apply.
        world: number of devices, over all machines.
        fits: clips per device that fit into memory, before `repeats`; needed if `batch_size` is null.

    Raises:
        ConfigError: the numbers contradict each other.
    """
    for name in ("global_batch", "batch_size", "accumulate", "repeats"):
        value = getattr(trainer, name)
        if value is not None and value < 1:
            raise ConfigError(f"trainer.{name} must be at least 1, got {value}")
    total, accumulate = trainer.global_batch, trainer.accumulate
    if total is None:
        if trainer.batch_size is None:
            raise ConfigError("trainer.batch_size and trainer.global_batch are both null: set one of them")
        batch_size, accumulate = trainer.batch_size, accumulate or 1
    else:
        batch_size = _per_device(trainer, total, world, fits)
        accumulate = total // (batch_size * world)
    lr, note = _learning_rate(optim, batch_size * accumulate * world)
    return BatchPlan(batch_size, accumulate, world, trainer.repeats, lr, note)


def _per_device(trainer: TrainerConfig, total: int, world: int, fits: int | None) -> int:
    if total % world:
        raise ConfigError(f"trainer.global_batch={total} does not divide among {world} devices; choose a multiple")
    share = total // world
    if trainer.accumulate is not None:
        if share % trainer.accumulate:
            raise ConfigError(
                f"trainer.global_batch={total} is no multiple of {world} devices x trainer.accumulate="
                f"{trainer.accumulate}; set trainer.accumulate to null to have it computed"
            )
        wanted = share // trainer.accumulate
        if trainer.batch_size not in (None, wanted):
            raise ConfigError(
                f"trainer.global_batch={total} on {world} devices with trainer.accumulate={trainer.accumulate} means "
                f"trainer.batch_size={wanted}, got {trainer.batch_size}; set one of them to null"
            )
        return wanted
    limit = trainer.batch_size if trainer.batch_size is not None else max(1, fits or 1)
    # The largest even part that is not above the limit.
    return max(size for size in range(1, share + 1) if share % size == 0 and size <= limit)


def _learning_rate(optim: OptimConfig, total: int) -> tuple[float, str]:
    if optim.lr_batch is None:
        return optim.lr, ""
    if optim.lr_batch < 1:
        raise ConfigError(f"optim.lr_batch must be at least 1, got {optim.lr_batch}")
    if total == optim.lr_batch:
        return optim.lr, ", the recipe's"
    return optim.lr * total / optim.lr_batch, f" (the recipe's {optim.lr:g} is for {optim.lr_batch})"
