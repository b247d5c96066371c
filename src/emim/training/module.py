"""What happens in a training and a validation step; Lightning runs the loop.

Shape suffixes: B batch, C channels, T frames, H height, W width, V views of one video, K classes.
"""

from __future__ import annotations

import time
from typing import Any

import lightning
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics.classification import MulticlassAccuracy

from emim.data.mix import Mixer
from emim.errors import EmimError
from emim.evaluation.views import score_views
from emim.models import UniFormer
from emim.training.config import OptimConfig
from emim.training.schedule import learning_rate, parameter_groups


class DivergedError(EmimError):
    """The loss became NaN or infinite."""


class ClassificationModule(lightning.LightningModule):
    """Soft-target cross-entropy training of a clip classifier.

    Args:
        model: the network.
        optim: optimiser and schedule.
        mixer: mixing within a batch and label smoothing.
        seed: seed of the mixing draws.
        max_seconds: time limit that the schedule ends with, if any.
    """

    def __init__(
        self, model: UniFormer, optim: OptimConfig, mixer: Mixer, *, seed: int, max_seconds: float | None
    ) -> None:
        super().__init__()
        self.model = model
        self.optim = optim
        self.mixer = mixer
        self.seed = seed
        self.max_seconds = max_seconds
        self.seconds_before = 0.0
        self._started = time.monotonic()
        self.val_top1 = MulticlassAccuracy(model.num_classes, average="micro")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(
            parameter_groups(self.model, self.optim.weight_decay),
            lr=self.optim.lr,
            betas=self.optim.betas,
            eps=self.optim.eps,
        )

    def on_train_start(self) -> None:
        self._started = time.monotonic()

    def seconds(self) -> float:
        """Time spent training, over all resumptions."""
        return self.seconds_before + time.monotonic() - self._started

    def progress(self) -> float:
        """Share of the training done, by steps or by time, whichever is further."""
        by_steps = self.global_step / max(1, int(self.trainer.estimated_stepping_batches))
        by_time = 0.0 if self.max_seconds is None else self.seconds() / self.max_seconds
        return min(1.0, max(by_steps, by_time))

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> int | None:
        del batch, batch_idx
        progress = self.progress()
        if self.max_seconds is not None and self.seconds() >= self.max_seconds:
            self.trainer.should_stop = True
            return -1  # skips the rest of the epoch
        rate = learning_rate(
            progress,
            peak=self.optim.lr,
            floor=self.optim.min_lr,
            warmup=self.optim.warmup_epochs / max(1, self.trainer.max_epochs or 1),
        )
        optimizer = self.optimizers()
        assert isinstance(optimizer, lightning.pytorch.core.optimizer.LightningOptimizer)
        for group in optimizer.param_groups:
            group["lr"] = rate
        self.log("lr", rate)
        return None

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        # Seeded by the step, so that a resumed run mixes as an uninterrupted one would.
        rng = np.random.default_rng((self.seed, self.current_epoch, batch_idx, self.global_rank))
        clip_BCTHW, target_BK = self.mixer(batch["clip"], batch["label"], rng)
        loss = F.cross_entropy(self.model(clip_BCTHW).float(), target_BK)
        if not torch.isfinite(loss):
            raise DivergedError(
                f"the loss is {loss.item()} at step {self.global_step} (epoch {self.current_epoch}); "
                "a lower optim.lr or a longer optim.warmup_epochs usually helps"
            )
        self.log("train_loss", loss, prog_bar=True, on_step=True, on_epoch=True, batch_size=len(clip_BCTHW))
        return loss

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        label_B = batch["label"]
        score_BK = score_views(self.model, list(batch["views"]), self.device)
        self.val_top1(score_BK, label_B)
        loss = F.nll_loss(score_BK.clamp_min(1e-12).log(), label_B)
        self.log("val_loss", loss, batch_size=len(label_B), sync_dist=True)
        self.log("val_top1", self.val_top1, prog_bar=True, batch_size=len(label_B))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["emim_seconds"] = self.seconds()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.seconds_before = float(checkpoint.get("emim_seconds", 0.0))
