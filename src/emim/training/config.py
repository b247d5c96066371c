"""The typed configuration of a training run.

A recipe is a YAML file with these keys; the command line overrides them by dotted names
(`optim.lr=1e-3`). The classes hold values only: `emim.training.run` builds the objects from them. The ranges below
are checked where a recipe is read (`emim.training.recipe`), before anything is loaded or written.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import Field

from emim.data.augment.transforms import AugmentOptions
from emim.data.preprocessing import Preprocessing

Count = Annotated[int, Field(ge=1)]
Natural = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
ShareBelowOne = Annotated[float, Field(ge=0, lt=1)]
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]


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
    min_coverage: Share = 0.8
    stem_stride: int = 1
    window: int = 7
    drop_path: ShareBelowOne = 0.0
    dropout: ShareBelowOne = 0.0


@dataclass(frozen=True)
class DataConfig:
    """Where the clips are and how they are loaded.

    Attributes:
        path: a folder of classes, or a manifest of training clips.
        val: a manifest or folder of validation clips; null takes the val split of `path`.
        val_share: share of the training clips held out for validation where `path` has no val split;
            0 trains on all of them and does not validate.
        columns: which column of a manifest holds what, such as "path=video_path,label=class"; null goes by names.
        group_by: keeps clips of one person, film or machine on one side of the held-out share: "column:person" for a
            column of the manifest, or a regular expression with one group for file names, such as "s([0-9]+)_"; null
            takes the manifest's column "group", if any.
        val_clips: validation clips per video; null is `preprocessing.clips`, as in testing.
        val_crops: validation crops per clip; null is `preprocessing.crops`, as in testing.
        max_skip_share: share of the training clips that may be unreadable; each is reported once and the next
            readable clip takes its place. More stop the run with the list. Tests never replace a clip.
        workers: loader processes; null chooses by the number of cores.
        cache: keep decoded frames in memory, for small data sets.
        cache_mb: limit of the cache in MiB, shared out among the workers.
    """

    path: str | None = None
    val: str | None = None
    val_share: ShareBelowOne = 0.2
    columns: str | None = None
    group_by: str | None = None
    val_clips: Count | None = None
    val_crops: Literal[1, 3] | None = None
    max_skip_share: Share = 0.01
    workers: Natural | None = None
    cache: bool = False
    cache_mb: Amount = 2048.0


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

    mixup: Amount = 0.0
    cutmix: Amount = 0.0
    prob: Share = 1.0
    switch_prob: Share = 0.5
    label_smoothing: Share = 0.1


@dataclass(frozen=True)
class OptimConfig:
    """AdamW with a cosine schedule after a linear warm-up, set per step.

    Attributes:
        lr: peak learning rate, at `lr_batch` clips per optimiser step.
        lr_batch: number of clips that `lr` is meant for; the rate in force is linear in the clips per step that the
            run really has. Null takes `lr` as it is.
        min_lr: learning rate at the end, and at the start of the warm-up.
        warmup_epochs: length of the warm-up, may be a fraction.
        weight_decay: none on biases, 1-D parameters and norms.
        betas: AdamW's.
        eps: AdamW's.
        clip_grad: largest gradient norm; 0 is off.
        layer_decay: factor of the learning rate from each block to the one before it (the head has the full rate);
            1 is off.
        matching: weight of a loss that makes the affinity of the first EMIM block a measure of likeness, so that its
            motion field is one (`emim.training.photometric`; ours); 0 is off. It suits clips that are not mixed.
    """

    lr: Amount = 1e-3
    lr_batch: int | None = None
    min_lr: Amount = 1e-6
    warmup_epochs: Amount = 1.0
    weight_decay: Amount = 0.05
    betas: tuple[ShareBelowOne, ShareBelowOne] = (0.9, 0.999)
    eps: Amount = 1e-8
    clip_grad: Amount = 20.0
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    matching: Amount = 0.0


@dataclass(frozen=True)
class TrainerConfig:
    """The loop.

    Attributes:
        epochs: passes over the training clips.
        max_minutes: also stop after this time; the schedule then ends with it. Null is no limit.
        global_batch: clips per optimiser step over all devices, before `repeats`; the batches that one step
            accumulates are worked out from it. Null: batch_size x devices x accumulate.
        batch_size: clips per device and pass, before `repeats`. Null: as many as fit into memory (needs
            `global_batch`).
        accumulate: passes per optimiser step; null works it out from `global_batch`, or is 1 without one.
        repeats: draws of each clip per epoch, side by side in a batch (repeated augmentation).
        checkpoint_blocks: activation checkpointing: how many blocks of each of the four stages forget their inner
            activations and compute them again in the backward pass.
        precision: "32-true", "bf16-mixed", "16-mixed" or "64-true"; "auto" is bf16-mixed where the hardware
            computes in it and 32-true elsewhere.
        devices: number of devices per machine, or "auto".
        nodes: number of machines.
        accelerator: "auto", "cpu" or "gpu".
        strategy: how several processes share the work: "ddp" (each holds the network), "fsdp" (each holds a part
            of every parameter), "auto" (ddp where there are several).
        ema: decay of the moving average of the weights; 0 is off.
        val_every: epochs between validations.
        keep: weights that become the model: those of the "best" validation, or the "last".
        save_minutes: how often the state of the run is saved within an epoch, besides at its end.
        seed: seed of the weights and of every draw.
    """

    epochs: Count = 30
    max_minutes: Annotated[float, Field(gt=0)] | None = None
    global_batch: int | None = None
    batch_size: int | None = 16
    accumulate: int | None = None
    repeats: int = 1
    checkpoint_blocks: tuple[int, int, int, int] = (0, 0, 0, 0)
    precision: Literal["auto", "32-true", "16-mixed", "bf16-mixed", "64-true"] = "auto"
    devices: Count | Literal["auto"] = "auto"
    nodes: Count = 1
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    strategy: Literal["auto", "ddp", "fsdp"] = "auto"
    ema: ShareBelowOne = 0.0
    val_every: Count = 1
    keep: Literal["best", "last"] = "best"
    save_minutes: Amount = 10.0
    seed: Natural = 0


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
