"""The typed configuration of a training run.

A recipe is a YAML file with these keys; the command line overrides them by dotted names
(`optim.lr=1e-3`). The classes hold values only: `emim.training.run` builds the objects from them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from emim.data.preprocessing import Preprocessing
from emim.data.transforms import AugmentOptions


@dataclass(frozen=True)
class ModelConfig:
    """The network.

    Attributes:
        name: one of `emim.list_models()`.
        checkpoint: weights to start from: a file, "bundled" for the model that comes with the package, or
            null to start from random ones.
        min_coverage: least share of the network that `checkpoint` must fill.
        stem_stride: temporal stride of the stem, 1 or 2.
        window: EMIM's window side in tokens, odd.
        drop_path: stochastic depth of the last block.
        dropout: dropout before the head.
    """

    name: str = "uniformer_tiny_emim"
    checkpoint: str | None = None
    min_coverage: float = 0.8
    stem_stride: int = 1
    window: int = 7
    drop_path: float = 0.0
    dropout: float = 0.0


@dataclass(frozen=True)
class DataConfig:
    """Where the clips are and how they are loaded.

    Attributes:
        path: a folder of classes, or a manifest CSV of training clips.
        val: a manifest CSV or folder of validation clips; null takes the val split of `path`.
        val_share: share of the training clips held out for validation where `path` has no val split;
            0 trains on all of them and does not validate.
        workers: loader processes; null chooses by the number of cores.
        cache: keep decoded frames in memory, for small data sets.
        cache_mb: limit of the cache in MiB, shared out among the workers.
    """

    path: str | None = None
    val: str | None = None
    val_share: float = 0.2
    workers: int | None = None
    cache: bool = False
    cache_mb: float = 2048.0


@dataclass(frozen=True)
class MixConfig:
    """Mixing of clips within a batch, and label smoothing.

    Attributes:
        mixup: alpha of mixup's Beta distribution; 0 is off.
        cutmix: alpha of cutmix's Beta distribution; 0 is off.
        prob: share of batches that are mixed.
        switch_prob: probability of cutmix where both are on.
        label_smoothing: share of the target spread over all classes.
    """

    mixup: float = 0.0
    cutmix: float = 0.0
    prob: float = 1.0
    switch_prob: float = 0.5
    label_smoothing: float = 0.1


@dataclass(frozen=True)
class OptimConfig:
    """AdamW with a cosine schedule after a linear warm-up, set per step.

    Attributes:
        lr: peak learning rate, at the batch size given.
        min_lr: learning rate at the end, and at the start of the warm-up.
        warmup_epochs: length of the warm-up, may be a fraction.
        weight_decay: none on biases, 1-D parameters and norms.
        betas: AdamW's.
        eps: AdamW's.
        clip_grad: largest gradient norm; 0 is off.
    """

    lr: float = 1e-3
    min_lr: float = 1e-6
    warmup_epochs: float = 1.0
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    clip_grad: float = 20.0


@dataclass(frozen=True)
class TrainerConfig:
    """The loop.

    Attributes:
        epochs: passes over the training clips.
        max_minutes: also stop after this time; the schedule then ends with it. Null is no limit.
        batch_size: clips per device and step.
        accumulate: batches per optimiser step.
        repeats: draws of each clip per epoch, side by side in a batch.
        precision: Lightning's name, such as "32-true" or "bf16-mixed".
        devices: number of devices, or "auto".
        accelerator: "auto", "cpu" or "gpu".
        ema: decay of the moving average of the weights; 0 is off.
        val_every: epochs between validations.
        seed: seed of the weights and of every draw.
    """

    epochs: int = 30
    max_minutes: float | None = None
    batch_size: int = 16
    accumulate: int = 1
    repeats: int = 1
    precision: Literal["32-true", "16-mixed", "bf16-mixed", "64-true"] = "32-true"
    devices: int | Literal["auto"] = "auto"
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    ema: float = 0.0
    val_every: int = 1
    seed: int = 0


@dataclass(frozen=True)
class RunConfig:
    """All of a training run.

    Attributes:
        name: name of the run's folder.
        output: folder that holds the runs.
    """

    name: str = "run"
    output: str = "runs"
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    augment: AugmentOptions = field(default_factory=AugmentOptions)
    mix: MixConfig = field(default_factory=MixConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
