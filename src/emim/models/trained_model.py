"""A trained network as one safetensors file that needs nothing else.

The weights are the tensors; the file's metadata holds, as JSON under the key "emim", how to rebuild the
network, its class names, its preprocessing, the configuration it was trained with and what it reached.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import torch
from pydantic import BaseModel, ConfigDict, FailFast, Field, JsonValue, ValidationError, model_validator
from safetensors.torch import save_file
from torch import Tensor

from emim.errors import CheckpointError, ConfigError
from emim.models.checkpoint import check_fit, load_all_weights
from emim.models.registry import ARCHITECTURES, create_model
from emim.models.tensor_file import TensorFile, read_tensor_file
from emim.models.uniformer import UniFormer
from emim.utils import atomic_write, is_file, nearest

__all__ = [
    "BUNDLED",
    "BUNDLED_PATH",
    "ModelCard",
    "card_of",
    "check_card",
    "has_card",
    "load_model",
    "read_card",
    "resolve_checkpoint",
    "save_model",
]

BUNDLED: Final = "bundled"
"""Name of the model that comes with the package, wherever a checkpoint is asked for."""

BUNDLED_PATH: Final = Path(__file__).resolve().parents[1] / "weights" / "motion_tiny.safetensors"
"""File of that model. Trained on generated motion clips by the recipe `motion`; eleven classes of motion."""

_METADATA_KEY: Final = "emim"
_MAX_CLASSES: Final = 100_000
_MAX_VIEW_VALUES: Final = 2**32
"""Values of all test views of a video, 16 GiB as float32."""


def resolve_checkpoint(checkpoint: str | Path | None) -> Path:
    """File of a checkpoint; None or "bundled" is the model that comes with the package.

    Raises:
        CheckpointError: that model's file is missing.
    """
    if checkpoint is None or str(checkpoint) == BUNDLED:
        if not BUNDLED_PATH.is_file():
            raise CheckpointError(f"{BUNDLED_PATH}: the bundled weights are missing; run `make weights`")
        return BUNDLED_PATH
    return Path(checkpoint)


@dataclass(frozen=True)
class ModelCard:
    """Description of a trained network, besides its weights.

    Attributes:
        model: name for `create_model`.
        arguments: overrides for `create_model`.
        classes: class names by index.
        preprocessing: `emim.data.preprocessing.Preprocessing` as plain values.
        config: the whole training configuration as plain values.
        data: fingerprint of the training data.
        metrics: measurements on the validation clips, if any.
        version: version of this package that wrote the file.
    """

    model: str
    classes: tuple[str, ...]
    preprocessing: Mapping[str, Any]
    arguments: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    version: str = field(default_factory=lambda: metadata.version("emim"))


def save_model(path: str | os.PathLike[str], weights: Mapping[str, Tensor], card: ModelCard) -> None:
    """Write weights (a network's `state_dict()`) and card; the file appears whole or not at all.

    Raises:
        CheckpointError: the card is one that `read_card` would refuse.
    """
    path = Path(path)
    text = json.dumps(asdict(card))
    _parse_card(path, text)
    tensors = {name: value.detach().cpu().contiguous() for name, value in weights.items()}
    with atomic_write(path) as temporary:
        save_file(tensors, temporary, metadata={_METADATA_KEY: text})


def check_card(card: ModelCard) -> None:
    """Raise ConfigError unless a model saved with this card could be loaded again."""
    try:
        _parse_card(Path(), json.dumps(asdict(card)))
    except CheckpointError as error:
        reason = str(error).removeprefix(f"{Path()}: ")
        raise ConfigError(f"the trained model could not be loaded again: {reason}") from error


def read_card(path: str | os.PathLike[str]) -> ModelCard:
    """Read and check the card of a file that `save_model` wrote; the values of the weights are not read.

    Raises:
        CheckpointError: the file is missing or unreadable, has no card, or has one with a wrong value (names the key).
    """
    return card_of(_read(Path(path)))


def has_card(file: TensorFile) -> bool:
    """True for a file that `save_model` wrote."""
    return _METADATA_KEY in file.metadata


def card_of(file: TensorFile) -> ModelCard:
    """The card in a file that has been read; see `read_card`."""
    if not has_card(file):
        raise CheckpointError(
            f"{file.path}: holds weights alone, without class names and preprocessing, so it cannot predict. "
            "Train from it with model.checkpoint, or give the model.safetensors of a run folder"
        )
    card = _parse_card(file.path, file.metadata[_METADATA_KEY])
    head = file.tensors.get("head.weight")
    if head is not None and head.dim() == 2 and len(head) != len(card.classes):
        raise CheckpointError(
            f"{file.path}: the card names {len(card.classes)} classes, but the network has {len(head)} outputs"
        )
    return card


def load_model(path: str | os.PathLike[str]) -> tuple[UniFormer, ModelCard]:
    """Rebuild a trained network, in evaluation mode on the CPU, with its card.

    The network is built without values and compared with the file before any memory is reserved for it.

    Raises:
        CheckpointError: the file cannot be read, its card has a wrong value, its weights do not fit the network that
            the card describes, or they are NaN, infinite or negative variances.
    """
    file = _read(Path(path))
    card = card_of(file)
    model = _build(file, card)
    load_all_weights(model.to_empty(device="cpu"), file.path, file.tensors)
    return model.eval(), card


def _read(path: Path) -> TensorFile:
    if is_file(path) and path.suffix != ".safetensors":
        raise CheckpointError(f"{path}: a trained model is a .safetensors file, the model.safetensors of a run folder")
    return read_tensor_file(path)


def _build(file: TensorFile, card: ModelCard) -> UniFormer:
    """The network that a card describes, on the meta device; the weights in the file have its names and shapes."""
    depths = {**ARCHITECTURES[card.model].arguments, **card.arguments}["depths"]
    if sum(depths) > len(file.tensors):
        raise CheckpointError(f"{file.path}: the card's arguments.depths {list(depths)} are more than the file holds")
    try:
        with torch.device("meta"):
            model = create_model(card.model, num_classes=len(card.classes), **card.arguments)
    except (ConfigError, RuntimeError) as error:  # RuntimeError: a tensor of more than 2^63 values
        raise CheckpointError(f"{file.path}: the card describes no network that can be built: {error}") from error
    check_fit(file.path, model.state_dict(), file.tensors)
    return model


_Count = Annotated[int, Field(ge=1, le=2**16)]
_Share = Annotated[float, Field(ge=0, lt=1)]
_Mean = Annotated[float, Field(ge=-1e3, le=1e3)]
_Spread = Annotated[float, Field(ge=1e-6, le=1e3)]
_Width = Annotated[int, Field(ge=1, le=2**20)]
_Side = Annotated[int, Field(ge=1, le=1023)]
_Depth = Annotated[int, Field(ge=0, le=1000)]


class _Checked(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


class _Preprocessing(_Checked):
    """Ranges of `emim.data.preprocessing.Preprocessing`; keys may be left out there, so the defaults are its own."""

    num_frames: _Count = 16
    sampling: Literal["segment", "dense"] = "segment"
    stride: _Count = 4
    size: Annotated[int, Field(ge=1, le=2**13)] = 224
    train_size: Annotated[int, Field(ge=1, le=2**13)] | None = None
    fit: Literal["crop", "letterbox", "stretch"] = "crop"
    antialias: bool = True
    square_pixels: bool = True
    mean: tuple[_Mean, _Mean, _Mean] = (0.45, 0.45, 0.45)
    std: tuple[_Spread, _Spread, _Spread] = (0.225, 0.225, 0.225)
    clips: _Count = 1
    crops: Literal[1, 3] = 3

    @model_validator(mode="after")
    def _fits_into_memory(self) -> _Preprocessing:
        values = 3 * self.num_frames * self.size**2 * self.clips * self.crops
        if values > _MAX_VIEW_VALUES:
            raise ValueError(
                f"{self.num_frames} frames x {self.size}^2 pixels x {self.clips} clips x {self.crops} crops are "
                f"{values} values a video, at most {_MAX_VIEW_VALUES} are taken"
            )
        return self


class _Arguments(_Checked):
    """Ranges of the arguments of `UniFormer`; what is left out is not passed on, so the defaults mean nothing."""

    depths: tuple[_Depth, _Depth, _Depth, _Depth] = (1, 1, 1, 1)
    widths: tuple[_Width, _Width, _Width, _Width] = (1, 1, 1, 1)
    strides: tuple[_Count, _Count, _Count] = (1, 1, 1)
    head_width: _Width = 1
    emim: bool = False
    window: _Side | tuple[_Side, _Side] = 1
    motion_start: Literal["appearance", "correlation"] = "appearance"
    stem_stride: Literal[1, 2] = 1
    mlp_ratio: Annotated[float, Field(gt=0, le=1024)] = 1.0
    drop_path: _Share = 0.0
    dropout: _Share = 0.0


class _Record(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")


class _Data(_Record):
    val_share: _Share = 0.2


class _Trainer(_Record):
    seed: Annotated[int, Field(ge=0)] = 0


class _Config(_Record):
    """The values of the training configuration that testing looks up; the rest is a record."""

    data: _Data = Field(default_factory=_Data)
    trainer: _Trainer = Field(default_factory=_Trainer)


class _Card(_Checked):
    model: str
    classes: Annotated[
        list[Annotated[str, Field(min_length=1)]], FailFast(), Field(min_length=1, max_length=_MAX_CLASSES)
    ]
    preprocessing: _Preprocessing
    arguments: _Arguments = Field(default_factory=_Arguments)
    config: _Config = Field(default_factory=_Config)
    data: dict[str, JsonValue] = Field(default_factory=dict)
    metrics: dict[str, JsonValue] = Field(default_factory=dict)
    version: str = ""


def _parse_card(path: Path, text: str) -> ModelCard:
    """Check a card's values, without building anything."""
    try:
        checked = _Card.model_validate_json(text)
    except ValidationError as error:
        raise CheckpointError(f"{path}: {_describe(error)}") from error
    if checked.model not in ARCHITECTURES:
        known = nearest(checked.model[:100], ARCHITECTURES)
        raise CheckpointError(f"{path}: the card's model: no model {_short(checked.model)}; {known}")
    _check_classes(path, checked.classes)
    values = json.loads(text)
    return ModelCard(**{**values, "classes": tuple(checked.classes)})


def _check_classes(path: Path, classes: list[str]) -> None:
    places: dict[str, int] = {}
    for place, name in enumerate(classes):
        if not name.strip():
            raise CheckpointError(f"{path}: the card's classes.{place}: a class needs a name, got {name[:60]!r}")
        if name in places:
            raise CheckpointError(f"{path}: the card's classes.{place}: {_short(name)} is also class {places[name]}")
        places[name] = place


def _describe(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    # The location of a value that may have several types ends in the name of one, such as "constrained-int".
    key = ".".join(str(part)[:80] for part in first["loc"] if not re.search(r"[-\[]", str(part)))
    where = f"the card's {key}" if key else "the card"
    if first["type"] == "missing":
        return f"{where} is missing"
    if first["type"] == "extra_forbidden":
        return f"{where} is an unknown key"
    reason = first["msg"].removeprefix("Value error, ")
    reason = reason[:1].lower() + reason[1:]
    return (
        f"{where}: {reason}" if first["type"] == "value_error" else f"{where}: {reason}, got {_short(first['input'])}"
    )


def _short(value: object) -> str:
    """`value` for an error message, which may be a file of it."""
    if isinstance(value, list | dict) and len(value) > 8:
        return f"a {type(value).__name__} of {len(value)}"
    text = repr(value[:100]) if isinstance(value, str) else repr(value)
    return text if len(text) <= 100 else f"{text[:100]}..."
