"""Trained-model files whose card or weights are wrong: one error that names file, key and value."""

from __future__ import annotations

import dataclasses
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from emim.data.preprocessing import Preprocessing
from emim.errors import CheckpointError
from emim.models import UniFormer, create_model
from emim.models.trained_model import ModelCard, load_model, read_card, save_model

CLASSES = ("left", "right", "up")
CARD: dict[str, Any] = {
    "model": "uniformer_tiny_emim",
    "classes": list(CLASSES),
    "preprocessing": Preprocessing(num_frames=4, size=32).to_dict(),
    "arguments": {"window": 5, "stem_stride": 2},
    "config": {"data": {"val_share": 0.1}, "trainer": {"seed": 3}},
    "data": {"num_clips": 7},
    "metrics": {"val_top1": 0.5},
    "version": "0.1.0",
}


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return dict(create_model(CARD["model"], len(CLASSES), **CARD["arguments"]).state_dict())


def write(path: Path, weights: dict[str, Tensor], card: object) -> Path:
    text = card if isinstance(card, str) else json.dumps(card)
    save_file(weights, path, metadata={"emim": text})
    return path


def with_value(path: tuple[str, ...], value: object) -> dict[str, Any]:
    """The card with another value at a place."""
    card: dict[str, Any] = json.loads(json.dumps(CARD))
    inner = card
    for key in path[:-1]:
        inner = inner.setdefault(key, {})
    inner[path[-1]] = value
    return card


def test_a_model_comes_back_as_it_was_saved(weights: dict[str, Tensor], tmp_path: Path) -> None:
    card = ModelCard(**{**CARD, "classes": CLASSES})
    path = tmp_path / "model.safetensors"
    save_model(path, weights, card)
    model, read = load_model(path)
    assert read == read_card(path) == card
    assert not model.training
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    model(torch.zeros(1, 3, 4, 32, 32)).sum().backward()
    model.head.weight.data.zero_()  # the file is not changed with the network
    assert all(torch.equal(value, weights[name]) for name, value in load_model(path)[0].state_dict().items())


def test_half_precision_weights_are_loaded(weights: dict[str, Tensor], tmp_path: Path) -> None:
    half = {name: value.half() if value.is_floating_point() else value for name, value in weights.items()}
    model, _ = load_model(write(tmp_path / "half.safetensors", half, CARD))
    assert model.head.weight.dtype == torch.float32
    assert torch.equal(model.head.weight, weights["head.weight"].half().float())


WRONG_CARDS: dict[str, tuple[tuple[str, ...], object, str]] = {
    "classes as a string": (("classes",), "f", "classes: .*valid array, got 'f'"),
    "classes as a dictionary": (("classes",), {"0": "left"}, "classes: .*valid array, got"),
    "a class that is a number": (("classes",), ["left", 3, "up"], r"classes\.1: .*valid string, got 3"),
    "two classes of one name": (("classes",), ["left", "up", "left"], r"classes\.2: 'left' is also class 0"),
    "an empty class name": (("classes",), ["left", "", "up"], r"classes\.1: .*at least 1 character"),
    "a blank class name": (("classes",), ["left", " \t", "up"], r"classes\.1: a class needs a name"),
    "no classes": (("classes",), [], "classes: .*at least 1 item"),
    "fewer classes than outputs": (("classes",), ["left", "up"], "names 2 classes, but the network has 3 outputs"),
    "more classes than outputs": (("classes",), [*"abcd"], "names 4 classes, but the network has 3 outputs"),
    "many classes": (("classes",), [str(index) for index in range(200_000)], "classes: .*at most 100000 items"),
    "1e9 frames": (("preprocessing", "num_frames"), 10**9, r"preprocessing\.num_frames: .*, got 1000000000"),
    "1e9 clips": (("preprocessing", "clips"), 10**9, r"preprocessing\.clips: .*, got 1000000000"),
    "a huge size": (("preprocessing", "size"), 10**6, r"preprocessing\.size: .*, got 1000000"),
    "many clips of many frames": (
        ("preprocessing",),
        {"num_frames": 65536, "clips": 65536},
        "preprocessing: 65536 frames x 224.* values a video, at most",
    ),
    "frames as text": (("preprocessing", "num_frames"), "8", r"preprocessing\.num_frames: .*, got '8'"),
    "a fraction of a frame": (("preprocessing", "num_frames"), 8.5, r"preprocessing\.num_frames: .*, got 8.5"),
    "no frames": (("preprocessing", "num_frames"), 0, r"preprocessing\.num_frames: .*, got 0"),
    "an unknown way of sampling": (("preprocessing", "sampling"), "all", r"preprocessing\.sampling: .*, got 'all'"),
    "an infinite mean": (("preprocessing", "mean"), [0.5, 0.5, float("inf")], r"preprocessing\.mean\.2: "),
    "no spread": (("preprocessing", "std"), [0.2, 0.0, 0.2], r"preprocessing\.std\.1: .*, got 0"),
    "an unknown key": (("preprocessing", "frames"), 8, r"preprocessing\.frames is an unknown key"),
    "no preprocessing": (("preprocessing",), None, "preprocessing: .*, got None"),
    "millions of blocks": (("arguments", "depths"), [1, 1, 2, 10**6], r"arguments\.depths\.3: .*, got 1000000"),
    "more blocks than weights": (("arguments", "depths"), [900, 900, 2, 2], "arguments.depths .* more than the file"),
    "more blocks than the file has": (("arguments", "depths"), [1, 1, 2, 3], r"blocks4\.2\.\S+ is missing"),
    "a huge width": (("arguments", "widths"), [24, 48, 96, 10**9], r"arguments\.widths\.3: .*, got 1000000000"),
    "a large width": (
        ("arguments", "widths"),
        [24, 48, 96, 192 * 4096],
        r"patch_embed4\.\S+ has the shape \[192\], \[786432\] in the network",
    ),
    "a wide MLP": (("arguments", "mlp_ratio"), 1000, r"fc1\.weight has the shape"),
    "an even window": (("arguments", "window"), 4, "describes no network that can be built: .*window must be odd"),
    "a window that is none": (("arguments", "window"), [5], r"arguments\.window: "),
    "another window": (("arguments", "window"), 7, r"rpb has the shape \[3, 5, 5\], \[3, 7, 7\] in the network"),
    "no head width": (("arguments", "head_width"), 0, r"arguments\.head_width: .*, got 0"),
    "drop path of 1": (("arguments", "drop_path"), 1, r"arguments\.drop_path: .*, got 1"),
    "a class count among the arguments": (("arguments", "num_classes"), 3, r"arguments\.num_classes is an unknown key"),
    "an unknown model": (("model",), "uniformer_tiny_emi", "model: no model .* did you mean 'uniformer_tiny_emim'"),
    "a plain model": (("model",), "uniformer_tiny", "is no weight of the network|is missing"),
    "a model that is a list": (("model",), ["uniformer_tiny"], "model: .*valid string"),
    "a share that is text": (("config", "data"), {"val_share": "much"}, r"config\.data\.val_share: .*, got 'much'"),
    "a configuration that is text": (("config",), "motion", "config: .*, got 'motion'"),
    "an unknown entry": (("extra",), 1, "extra is an unknown key"),
}


@pytest.mark.parametrize("fault", WRONG_CARDS)
def test_a_wrong_card_is_one_error_that_names_file_key_and_value(
    weights: dict[str, Tensor], tmp_path: Path, fault: str
) -> None:
    place, value, message = WRONG_CARDS[fault]
    path = write(tmp_path / "wrong.safetensors", weights, with_value(place, value))
    with pytest.raises(CheckpointError, match=rf"wrong\.safetensors: .*{message}") as error:
        load_model(path)
    assert len(str(error.value)) < 1000


@pytest.mark.parametrize("key", ["model", "classes", "preprocessing"])
def test_a_card_without_a_key_names_it(weights: dict[str, Tensor], tmp_path: Path, key: str) -> None:
    card = {name: value for name, value in CARD.items() if name != key}
    with pytest.raises(CheckpointError, match=rf"short\.safetensors: the card's {key} is missing"):
        read_card(write(tmp_path / "short.safetensors", weights, card))


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "[" * 100_000, '{"classes": ["\\ud800"]}', "9" * 10_000, "NaN"]
)
def test_a_card_that_is_no_card(weights: dict[str, Tensor], tmp_path: Path, text: str) -> None:
    with pytest.raises(CheckpointError, match=r"text\.safetensors: the card"):
        read_card(write(tmp_path / "text.safetensors", weights, text))


def test_a_header_of_ten_million_classes_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "long.safetensors"
    header = json.dumps({"__metadata__": {"emim": "[" + '"a",' * 10_000_000}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(CheckpointError, match=r"long\.safetensors: .*a header of \d+ bytes, at most"):
        read_card(path)


def test_weights_alone_have_no_card(weights: dict[str, Tensor], tmp_path: Path) -> None:
    save_file(weights, tmp_path / "alone.safetensors")
    with pytest.raises(CheckpointError, match="holds weights alone, without class names"):
        load_model(tmp_path / "alone.safetensors")
    torch.save(weights, tmp_path / "alone.pth")
    with pytest.raises(CheckpointError, match=r"a trained model is a \.safetensors file"):
        load_model(tmp_path / "alone.pth")


NAME = "blocks1.0.norm1.running_var"
WRONG_WEIGHTS: dict[str, tuple[Callable[[dict[str, Tensor]], object], str]] = {
    "another shape": (
        lambda w: w.update({NAME: torch.ones(23)}),
        rf"{NAME} has the shape \[23\], \[24\] in the network",
    ),
    "integers": (
        lambda w: w.update({NAME: torch.ones(24, dtype=torch.int32)}),
        rf"{NAME} has values of type torch.int32",
    ),
    "float8": (
        lambda w: w.update({NAME: torch.ones(24).to(torch.float8_e4m3fn)}),
        rf"{NAME} has values of type F8_E4M3; only dense tensors",
    ),
    "a negative variance": (lambda w: w[NAME].fill_(-0.5), rf"{NAME} is a variance, but holds -0\.5"),
    "NaN": (lambda w: w["head.weight"].fill_(torch.nan), r"head\.weight holds NaN or Inf"),
    "infinity": (lambda w: w["head.bias"][:1].fill_(torch.inf), r"head\.bias holds NaN or Inf"),
    "one missing": (lambda w: w.pop("norm.bias"), r"norm\.bias is missing, \[192\] in the network"),
    "one too many": (lambda w: w.update(extra=torch.ones(1)), "extra is no weight of the network"),
    "a head of another shape": (
        lambda w: w.update({"head.weight": torch.ones(3)}),
        r"head\.weight has the shape \[3\]",
    ),
}


@pytest.mark.parametrize("fault", WRONG_WEIGHTS)
def test_wrong_weights_are_one_error_that_names_file_and_weight(
    weights: dict[str, Tensor], tmp_path: Path, fault: str
) -> None:
    spoil, message = WRONG_WEIGHTS[fault]
    spoiled = {name: value.clone() for name, value in weights.items()}
    spoil(spoiled)
    with pytest.raises(CheckpointError, match=rf"wrong\.safetensors: {message}"):
        load_model(write(tmp_path / "wrong.safetensors", spoiled, CARD))


def test_a_card_that_could_not_be_read_again_is_not_written(weights: dict[str, Tensor], tmp_path: Path) -> None:
    card = ModelCard(**{**CARD, "classes": ("left", "left", "up")})
    with pytest.raises(CheckpointError, match="'left' is also class 0"):
        save_model(tmp_path / "model.safetensors", weights, card)
    assert not list(tmp_path.iterdir())


def test_every_preprocessing_value_has_a_range(weights: dict[str, Tensor], tmp_path: Path) -> None:
    for item in dataclasses.fields(Preprocessing):
        path = write(tmp_path / "model.safetensors", weights, with_value(("preprocessing", item.name), {"no": "value"}))
        with pytest.raises(CheckpointError, match=rf"the card's preprocessing\.{item.name}"):
            read_card(path)


def load_or_message(path: Path) -> tuple[UniFormer, ModelCard] | str:
    try:
        return load_model(path)
    except CheckpointError as error:
        return str(error)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.integers(10**6, 10**30),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
PLACES = st.sampled_from(
    [(key,) for key in CARD]
    + [("preprocessing", item.name) for item in dataclasses.fields(Preprocessing)]
    + [
        ("arguments", key)
        for key in ("depths", "widths", "strides", "head_width", "emim", "window", "motion_start", "stem_stride",
                    "mlp_ratio", "drop_path", "dropout")
    ]
    + [("config", "data"), ("config", "trainer"), ("config", "data", "val_share"), ("config", "trainer", "seed")]
)  # fmt: skip


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=PLACES, value=VALUES)
def test_any_value_in_a_card_is_taken_or_one_error(
    weights: dict[str, Tensor], tmp_path: Path, place: tuple[str, ...], value: object
) -> None:
    path = write(tmp_path / "fuzzed.safetensors", weights, with_value(place, value))
    loaded = load_or_message(path)
    if isinstance(loaded, str):
        assert loaded.startswith(f"{path}: ")
        assert len(loaded) < 1000
    else:
        model, card = loaded
        pre = Preprocessing.from_dict(card.preprocessing)
        assert model.num_classes == len(card.classes) == 3
        assert pre.num_views * pre.num_frames * pre.size**2 <= 2**32


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.floats(0, 1, exclude_max=True), values=st.binary(min_size=1, max_size=8))
def test_a_file_with_other_bytes_is_taken_or_one_error(
    weights: dict[str, Tensor], tmp_path: Path, place: float, values: bytes
) -> None:
    path = write(tmp_path / "damaged.safetensors", weights, CARD)
    content = bytearray(path.read_bytes())
    header = 8 + int.from_bytes(content[:8], "little")
    start = int(place * header)
    content[start : start + len(values)] = values
    path.write_bytes(content)
    loaded = load_or_message(path)
    assert not isinstance(loaded, str) or "damaged.safetensors: " in loaded
