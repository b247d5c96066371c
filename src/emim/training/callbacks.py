"""Lightning callbacks of a run."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import lightning
import torch.distributed as dist

from emim.errors import BrokenClipsError, EmimError
from emim.training.loaders import ClipDataModule
from emim.training.module import ClassificationModule


class TellValidation(lightning.Callback):
    """Tell of every validation's top-1, and whether it is at least the best so far.

    Must stand before the weight averaging callback: the averaged weights are then still in the network.

    Args:
        tell: called with the module, its metrics, and whether they are the best.
    """

    def __init__(self, tell: Callable[[ClassificationModule, dict[str, Any], bool], None]) -> None:
        self.tell = tell
        self.best_top1 = -1.0

    def on_validation_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if trainer.sanity_checking:
            return
        assert isinstance(pl_module, ClassificationModule)
        top1 = float(pl_module.val_top1.compute())  # over all processes, so all must ask
        best = top1 >= self.best_top1
        self.best_top1 = max(top1, self.best_top1)
        self.tell(pl_module, {"val_top1": top1, "epoch": trainer.current_epoch}, best)

    def state_dict(self) -> dict[str, Any]:
        return {"best_top1": self.best_top1}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best_top1 = state_dict["best_top1"]


class SkipLimit(lightning.Callback):
    """Hold the unreadable clips that all processes have found together to the limit, after each epoch.

    Within an epoch each loader holds those of its own process to it.

    Args:
        loaders: knows what this process has skipped, and the limit.
    """

    def __init__(self, loaders: ClipDataModule) -> None:
        self.loaders = loaders

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        del pl_module
        if trainer.world_size == 1:
            return
        parts: list[dict[int, EmimError]] = [{} for _ in range(trainer.world_size)]
        dist.all_gather_object(parts, self.loaders.skipped)
        together = {index: error for part in parts for index, error in part.items()}
        if len(together) > self.loaders.max_skipped:
            raise BrokenClipsError(tuple(together[index] for index in sorted(together)), self.loaders.max_skipped)


class EpochLines(lightning.Callback):
    """One line per epoch, for terminals without a progress bar and for logs."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self.write = write
        self._started = time.monotonic()

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        del trainer, pl_module
        self._started = time.monotonic()

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        del pl_module
        metrics = trainer.callback_metrics
        parts = [f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"]
        if "train_loss_epoch" in metrics:
            parts.append(f"loss {metrics['train_loss_epoch']:.3f}")
        if "val_top1" in metrics:
            parts.append(f"val top-1 {metrics['val_top1']:.1%}")
        parts.append(f"{time.monotonic() - self._started:.0f} s")
        self.write("  ".join(parts))
