"""The copy for inference: the same logits, and a model that stays as it was."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import emim
from emim.models import UniFormer
from emim.models.inference import for_inference
from emim.nn import EMIM

SIZES = {"depths": (2, 1, 2, 1), "widths": (8, 16, 32, 32), "head_width": 16, "num_classes": 5}


@pytest.fixture(scope="module")
def model() -> UniFormer:
    """A network whose norms do something."""
    torch.manual_seed(0)
    model = emim.create_model("uniformer_small_emim", **SIZES)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2.0)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
        elif isinstance(module, EMIM):
            nn.init.normal_(module.motion_conv[2].weight, std=0.1)
    return model.eval()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-13)])
def test_logits_are_the_same(model: UniFormer, dtype: torch.dtype, tolerance: float) -> None:
    model = copy.deepcopy(model).to(dtype)
    clip = torch.randn(2, 3, 5, 64, 96, dtype=dtype)
    ready = for_inference(model)
    with torch.inference_mode():
        expected, logits = model(clip), ready(clip)
    assert (logits - expected).abs().max() < tolerance * expected.abs().max()
    assert not torch.equal(logits, expected)  # something was folded


def test_the_model_stays_as_it_was(model: UniFormer) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for_inference(model)
    after = model.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_copy_of_a_copy_is_the_same_again(model: UniFormer) -> None:
    clip = torch.randn(1, 3, 3, 64, 64)
    once = for_inference(model)
    with torch.inference_mode():
        assert torch.equal(for_inference(once)(clip), once(clip))


def test_a_model_in_training_is_copied_for_evaluation(model: UniFormer) -> None:
    training = copy.deepcopy(model).train()
    assert not for_inference(training).training
    assert training.training


def test_in_low_precision_embeddings_are_added_apart(model: UniFormer) -> None:
    clip = torch.randn(1, 3, 3, 64, 64)
    with torch.inference_mode():
        exact = model(clip)
        with torch.autocast("cpu", torch.bfloat16):
            plain, ready = model(clip), for_inference(model, autocast=True)(clip)
    # As far from the exact logits as the model itself, within a factor that is not that of a lost residual.
    assert (ready - exact).abs().max() < 2 * (plain - exact).abs().max() + 1e-3
