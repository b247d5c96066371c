"""A trained network as one safetensors file that needs nothing else.

The weights are the tensors; the file's metadata holds, as JSON under the key "emim", how to rebuild the
network, its class names, its preprocessing, the configuration it was trained with and what it reached.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from emim.errors import CheckpointError
from emim.models.checkpoint import load_checkpoint
from emim.models.registry import create_model
from emim.models.uniformer import UniFormer
from emim.utils import atomic_write

BUNDLED = "bundled"
"""The name that stands for the file wherever a checkpoint is asked for."""

BUNDLED_PATH = Path(__file__).resolve().parents[1] / "weights" / "motion_tiny.safetensors"
"""Trained on generated motion clips by the recipe `motion`; eleven classes of motion."""


def resolve_checkpoint(checkpoint: str | Path | None) -> Path:
    """The file of a checkpoint; None or "bundled" is the one that comes with the package."""
    if checkpoint is None or str(checkpoint) == BUNDLED:
        if not BUNDLED_PATH.is_file():
            raise CheckpointError(f"{BUNDLED_PATH}: the bundled weights are missing; run `make weights`")
        return BUNDLED_PATH
    return Path(checkpoint)


_METADATA_KEY = "emim"


@dataclass(frozen=True)
class ModelCard:
    """What a trained network is, besides its weights.

    Attributes:
        model: name for `create_model`.
        arguments: overrides for `create_model`.
        classes: class names by index.
        preprocessing: `emim.data.preprocessing.Preprocessing` as plain values.
        config: the whole training configuration as plain values.
        data: fingerprint of the training data.
        metrics: what was measured on the validation clips, if any.
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
    """Write weights (a network's `state_dict()`) and card; the file appears whole or not at all."""
    path = Path(path)
    tensors = {name: value.detach().cpu().contiguous() for name, value in weights.items()}
    with atomic_write(path) as temporary:
        save_file(tensors, temporary, metadata={_METADATA_KEY: json.dumps(asdict(card))})


def read_card(path: str | os.PathLike[str]) -> ModelCard:
    """The card of a file that `save_model` wrote.

    Raises:
        CheckpointError: no such file, or not one of ours.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint file")
    try:
        with safe_open(path, "pt") as file:
            stored = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path}: not a readable safetensors file ({error}); a trained model is the model.safetensors of "
            "a run folder"
        ) from error
    if _METADATA_KEY not in stored:
        raise CheckpointError(
            f"{path}: holds weights alone, without class names and preprocessing, so it cannot predict. "
            "Train from it with model.checkpoint, or give the model.safetensors of a run folder"
        )
    values = json.loads(stored[_METADATA_KEY])
    return ModelCard(**{**values, "classes": tuple(values["classes"])})


def load_model(path: str | os.PathLike[str]) -> tuple[UniFormer, ModelCard]:
    """Rebuild a trained network, in evaluation mode on the CPU, with its card.

    Raises:
        CheckpointError: the file cannot be read, or its weights do not fit the network that it names.
    """
    card = read_card(path)
    model = create_model(card.model, num_classes=len(card.classes), **card.arguments)
    load_checkpoint(model, path, min_coverage=1.0, verbose=False)
    return model.eval(), card
