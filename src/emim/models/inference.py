"""A trained network made ready to be run and nothing else."""

from __future__ import annotations

import copy

import torch
from torch import nn

from emim.models.uniformer import UniFormer
from emim.nn import LocalBlock
from emim.nn.depthwise import PositionEmbedding
from emim.nn.feed_forward import PointwiseConv3d


def for_inference(model: UniFormer, *, autocast: bool = False) -> UniFormer:
    """A copy that computes the same with fewer passes over memory; it cannot be trained or saved.

    Batch norms are folded into the point-wise convolutions that follow them, and the sum of a position and its
    embedding into the embedding's kernel. Logits are those of `model.eval()` up to the rounding of its dtype.

    Args:
        model: in float32 or float64; stays as it is.
        autocast: it will run in lower precision, in which a kernel cannot hold both 1 and small weights: the sums of
            positions and embeddings stay.
    """
    ready = copy.deepcopy(model).eval().requires_grad_(False)
    for module in ready.modules():
        if isinstance(module, LocalBlock):
            _fold(module.norm1, module.conv1)
            _fold(module.norm2, module.mlp.fc1)
            module.norm1 = module.norm2 = nn.Identity()
        elif isinstance(module, PositionEmbedding) and not autocast:
            module.take_identity()
    return ready


def _fold(norm: nn.Module, conv: PointwiseConv3d) -> None:
    """Make conv(x) what conv(norm(x)) was. In float64, so that only the result is rounded."""
    if isinstance(norm, nn.Identity):
        return
    assert isinstance(norm, nn.BatchNorm3d)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert conv.bias is not None
    factor_C = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    shift_C = norm.bias.double() - norm.running_mean.double() * factor_C
    weight_KC = conv.weight.flatten(1).double()
    with torch.no_grad():
        conv.bias.copy_(conv.bias.double() + weight_KC @ shift_C)
        conv.weight.copy_((weight_KC * factor_C).view_as(conv.weight))
