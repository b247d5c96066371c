"""Typed configuration of a training run.

A recipe is a YAML file with these keys; the command line overrides them by dotted names (`optim.lr=1e-3`). The classes
only hold values; `emim.training.run` builds the objects from them. Types and ranges are checked when a recipe is read
(`emim.training.recipe`), before anything is loaded or written.

The class docstrings are the only descriptions of the keys: `emim config` and the documentation print them. Texts in
`Annotated` state ranges that validators check, for the same purpose.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from emim.data.augment.transforms import AugmentOptions
from emim.data.preprocessing import Preprocessing

__all__ = ["DataConfig", "MixConfig", "ModelConfig", "OptimConfig", "RunConfig", "TrainerConfig"]

_LONGEST_PATH = 4095
_LONGEST_COMPONENT = 255
_LONGEST_NAME = 200
"""Bytes. Longer runs' names would leave no room for a number at their end."""


def _odd(value: int) -> int:
    if value % 2 == 0:
        raise ValueError("must be odd")
    return value


def _path(value: str) -> str:
    try:
        encoded = value.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise ValueError("must be a path, but no file system has such characters") from error
    if not value:
        raise ValueError("must be a path, but is empty")
    if "\0" in value:
        raise ValueError("must be a path, but holds a null character")
    if len(encoded) > _LONGEST_PATH or max(map(len, encoded.split(b"/"))) > _LONGEST_COMPONENT:
        raise ValueError("must be a path, but is too long for one")
    return value


def _folder_name(value: str) -> str:
    if value in ("", ".", "..") or "/" in value or "\\" in value or not value.isprintable():
        raise ValueError(
            "must be the name of one folder: printable characters without / and \\ (see output for a path)"
        )
    if len(value.encode()) > _LONGEST_NAME:
        raise ValueError(f"must be at most {_LONGEST_NAME} bytes long")
    return value


Count = Annotated[int, Field(ge=1, le=2**31 - 1)]
Natural = Annotated[int, Field(ge=0, le=2**31 - 1)]
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
Share = Annotated[float, Field(ge=0, le=1)]
ShareBelowOne = Annotated[float, Field(ge=0, lt=1)]
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
PathText = Annotated[str, AfterValidator(_path), "a path"]
Words = Annotated[str, Field(max_length=1000)]


@dataclass(frozen=True)
class ModelConfig:
    """The network.

    Attributes:
        name: name of the network, one of `emim.list_models()`.
        checkpoint: weights to start from: a file, "bundled" for the model that comes with the package, or null for
            random weights.
        min_coverage: least share of the network's values that `checkpoint` must provide.
        stem_stride: temporal stride of the stem.
        window: side of EMIM's window in tokens.
        drop_path: stochastic depth rate of the last block; earlier blocks have less.
        dropout: dropout rate before the head.
    """

    name: str = "uniformer_tiny_emim"
    checkpoint: PathText | None = None
    min_coverage: Share = 0.8
    stem_stride: Literal[1, 2] = 1
    window: Annotated[int, Field(ge=1, le=63), AfterValidator(_odd), "odd"] = 7
    drop_path: ShareBelowOne = 0.0
    dropout: ShareBelowOne = 0.0


@dataclass(frozen=True)
class DataConfig:
    """The clips and how they are loaded.

    Attributes:
        path: training clips: a folder of classes, or a manifest.
        val: validation clips: a manifest or a folder of classes; null uses the val split of `path`.
        val_share: share of the training clips held out for validation if `path` has no val split; 0 trains on all of
            them and does not validate.
        columns: columns of a manifest by what they hold, such as "path=video_path,label=class"; null finds them by
            their names.
        group_by: rule that keeps clips of one person, film or machine on one side of the held-out share:
            "column:person" for a column of the manifest, or a regular expression with one group for file names, such as
            "s([0-9]+)_"; null uses the manifest's column "group", if any.
        val_clips: validation clips per video; null is `preprocessing.clips`, as in testing.
        val_crops: validation crops per clip; null is `preprocessing.crops`, as in testing.
        max_skip_share: share of the training clips that may be unreadable. Each of them is reported once, and the next
            readable clip takes its place. More of them stop the run with a list. Tests never replace a clip.
        workers: loader worker processes; null depends on the number of cores.
        cache: keep decoded frames in memory, for small data sets.
        cache_mb: size of the cache in MiB, divided among the workers.
    """

    path: PathText | None = None
    val: PathText | None = None
    val_share: ShareBelowOne = 0.2
    columns: Words | None = None
    group_by: Words | None = None
    val_clips: Count | None = None
    val_crops: Literal[1, 3] | None = None
    max_skip_share: Share = 0.01
    workers: Annotated[int, Field(ge=0, le=1024)] | None = None
    cache: bool = False
    cache_mb: Annotated[float, Field(ge=0, le=1e9)] = 2048.0


@dataclass(frozen=True)
class MixConfig:
    """Mixing of clips within a batch, and label smoothing.

    Attributes:
        mixup: alpha of mixup's Beta distribution; 0 is off.
        cutmix: alpha of cutmix's Beta distribution; 0 is off.
        prob: share of batches that are mixed.
        switch_prob: probability of cutmix if both are on.
        label_smoothing: share of the target that is spread over all classes.
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
        lr: peak learning rate, for `lr_batch` clips per optimiser step.
        lr_batch: number of clips per step that `lr` is meant for; the learning rate is scaled linearly to the clips per
            step of the run. Null does not scale it.
        min_lr: learning rate at the end, and at the start of the warm-up.
        warmup_epochs: length of the warm-up in epochs, may be a fraction.
        weight_decay: weight decay; biases, 1-D parameters and norms have none.
        betas: AdamW's decay rates of the moments.
        eps: AdamW's epsilon.
        clip_grad: largest norm of the gradient; 0 is off.
        layer_decay: factor of the learning rate from each block to the one before it (the head has the full rate);
            1 is off.
        photometric: weight of the photometric loss (ours), which makes the affinity of the first EMIM block a measure
            of similarity, so that its soft-argmax is a motion field; 0 is off. It suits clips that are not mixed.
    """

    lr: Amount = 1e-3
    lr_batch: Count | None = None
    min_lr: Amount = 1e-6
    warmup_epochs: Amount = 1.0
    weight_decay: Amount = 0.05
    betas: tuple[ShareBelowOne, ShareBelowOne] = (0.9, 0.999)
    eps: Amount = 1e-8
    clip_grad: Amount = 20.0
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    photometric: Amount = 0.0


@dataclass(frozen=True)
class TrainerConfig:
    """The training loop.

    Attributes:
        epochs: passes over the training clips.
        max_minutes: time limit in minutes, at which the schedule ends, too; null is no limit.
        global_batch: clips per optimiser step over all devices, before `repeats`; the number of batches that a step
            accumulates follows from it. Null is batch_size x devices x accumulate.
        batch_size: clips per device and pass, before `repeats`. Null is as many as fit into memory (needs
            `global_batch`).
        accumulate: passes per optimiser step; null follows from `global_batch`, or is 1 without one.
        repeats: draws of each clip per epoch, side by side in a batch (repeated augmentation).
        activation_checkpointing: number of blocks in each of the four stages that recompute their activations in the
            backward pass instead of saving them.
        precision: number format; "auto" is bf16-mixed if the hardware computes in it natively, else 32-true.
        devices: number of devices per machine, or "auto".
        nodes: number of machines.
        accelerator: kind of device; "auto" uses GPUs if there are any.
        strategy: parallel training: "ddp" (each process holds the network), "fsdp" (each process holds a part of every
            parameter), "auto" (ddp if there are several processes).
        ema: decay of the moving average of the weights; 0 is off.
        val_every: epochs between validations.
        keep: weights that become the model: those of the "best" validation, or the "last".
        save_minutes: minutes between checkpoints of the run within an epoch; there is one at its end, too.
        seed: seed of the initial weights and of all random numbers.
    """

    epochs: Count = 30
    max_minutes: Positive | None = None
    global_batch: Count | None = None
    batch_size: Count | None = 16
    accumulate: Count | None = None
    repeats: Count = 1
    activation_checkpointing: tuple[Natural, Natural, Natural, Natural] = (0, 0, 0, 0)
    precision: Literal["auto", "32-true", "16-mixed", "bf16-mixed", "64-true"] = "auto"
    devices: Count | Literal["auto"] = "auto"
    nodes: Count = 1
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    strategy: Literal["auto", "ddp", "fsdp"] = "auto"
    ema: ShareBelowOne = 0.0
    val_every: Count = 1
    keep: Literal["best", "last"] = "best"
    save_minutes: Amount = 10.0
    seed: Seed = 0


@dataclass(frozen=True)
class RunConfig:
    """A training run.

    Attributes:
        name: name of the run's folder; it is numbered if it exists.
        output: folder that holds the runs.
    """

    name: Annotated[str, AfterValidator(_folder_name), "a folder name, without / and \\"] = "run"
    output: PathText = "runs"
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    augment: AugmentOptions = field(default_factory=AugmentOptions)
    mix: MixConfig = field(default_factory=MixConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
