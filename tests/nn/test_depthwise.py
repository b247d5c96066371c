from __future__ import annotations

import pytest
import torch
from torch import nn

from emim.nn.layers import DepthwiseConv3d


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("shape", [(2, 4, 5, 6, 7), (1, 3, 1, 2, 1)])
def test_values_and_gradients_are_those_of_the_plain_convolution(kernel: int, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    dim = shape[1]
    ours = DepthwiseConv3d(dim, kernel).double()
    plain = nn.Conv3d(dim, dim, kernel, padding=kernel // 2, groups=dim).double()
    plain.load_state_dict(ours.state_dict())
    x = torch.randn(shape, dtype=torch.float64)
    results = []
    for conv in (ours, plain):
        input_ = x.clone().requires_grad_()
        out = conv(input_)
        out.square().sum().backward()
        results.append((out, input_.grad, conv.weight.grad, conv.bias.grad))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other)


def test_stays_in_float32_under_autocast() -> None:
    conv = DepthwiseConv3d(4, 3)
    with torch.autocast("cpu", torch.bfloat16):
        out = conv(torch.randn(1, 4, 3, 4, 4))
    assert out.dtype == torch.float32
    out.float().sum().backward()
    assert conv.weight.grad is not None
    assert conv.weight.grad.dtype == torch.float32


def test_even_kernel_is_refused() -> None:
    with pytest.raises(ValueError, match="odd, got 4"):
        DepthwiseConv3d(4, 4)
