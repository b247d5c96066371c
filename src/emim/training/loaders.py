"""Loaders of training and validation clips, for Lightning."""

from __future__ import annotations

from typing import Any

import lightning

from emim.data.dataset import EpochSampler, TestClips, TrainClips
from emim.data.loader import ClipLoader, default_workers
from emim.data.manifest import ClipList
from emim.training.config import RunConfig


class ClipDataModule(lightning.LightningDataModule):
    """Training and validation loaders of a run.

    Args:
        config: the run's configuration.
        train: training clips.
        val: validation clips; an empty list means no validation.
    """

    def __init__(self, config: RunConfig, train: ClipList, val: ClipList | None) -> None:
        super().__init__()
        self.config = config
        self.train = train
        self.val = val
        self.workers = default_workers() if config.data.workers is None else config.data.workers

    def train_dataloader(self) -> ClipLoader:
        data, trainer = self.config.data, self.config.trainer
        clips = TrainClips(
            self.train,
            self.config.preprocessing,
            self.config.augment,
            trainer.seed,
            cache=data.cache,
            cache_mb=data.cache_mb / max(1, self.workers),
        )
        rank, world = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        sampler = EpochSampler(len(clips), trainer.seed, rank=rank, world=world, repeats=trainer.repeats)
        return ClipLoader(
            clips,
            batch_size=trainer.batch_size,
            sampler=sampler,
            drop_last=len(sampler) > trainer.batch_size,
            num_workers=self.workers,
            persistent_workers=self.workers > 0,
        )

    def val_dataloader(self) -> ClipLoader | list[Any]:
        if not self.val:
            return []
        return ClipLoader(
            TestClips(self.val, self.config.preprocessing),
            batch_size=self.config.trainer.batch_size,
            num_workers=self.workers,
        )
