from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest
import torch
from torch import Tensor

from backends_here import why_not
from emim.errors import ClipSizeError
from emim.nn import EMIM, SelfAttention
from emim.nn.emim import QuickGELU


def test_weight_names_and_shapes_are_the_published_ones() -> None:
    shapes = {name: list(value.shape) for name, value in EMIM(128, 2).state_dict().items()}
    assert shapes == {
        "rpb": [2, 7, 7],
        "qkv.weight": [384, 128],
        "qkv.bias": [384],
        "proj.weight": [128, 128],
        "proj.bias": [128],
        "motion_conv.0.weight": [196, 49],
        "motion_conv.0.bias": [196],
        "motion_conv.2.weight": [64, 196],
        "motion_conv.2.bias": [64],
    }


def test_a_new_module_starts_from_appearance_alone() -> None:
    torch.manual_seed(0)
    emim = EMIM(8, 2, window=3)
    x = torch.randn(1, 2 * 3 * 4, 8)
    before = emim(x, (2, 3, 4))
    torch.nn.init.normal_(emim.motion_conv[0].weight)  # has no effect while the last motion layer is zero
    assert torch.equal(emim(x, (2, 3, 4)), before)
    torch.nn.init.normal_(emim.motion_conv[2].weight)
    assert not torch.allclose(emim(x, (2, 3, 4)), before)


def test_initialisation_has_the_stated_spread() -> None:
    torch.manual_seed(0)
    emim = EMIM(512, 8)
    assert emim.qkv.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert emim.rpb.std().item() == pytest.approx(0.02, rel=0.2)
    limit = (6 / (49 + 196)) ** 0.5  # Xavier uniform
    assert emim.motion_conv[0].weight.abs().max().item() == pytest.approx(limit, rel=0.01)
    assert not emim.qkv.bias.any()
    assert not emim.motion_conv[0].bias.any()
    assert not emim.motion_conv[2].weight.any()


def test_backends_agree_through_the_module() -> None:
    torch.manual_seed(0)
    dense, reference = EMIM(8, 2, (3, 5)).double(), EMIM(8, 2, (3, 5), backend="reference").double()
    torch.nn.init.normal_(dense.motion_conv[2].weight)
    reference.load_state_dict(dense.state_dict())
    x = torch.randn(2, 3 * 4 * 5, 8, dtype=torch.float64)
    torch.testing.assert_close(dense(x, (3, 4, 5)), reference(x, (3, 4, 5)))


needs_kernels = pytest.mark.skipif(why_not("triton") is not None, reason="the fused kernels cannot run here")


def triton_and_dense() -> tuple[EMIM, EMIM]:
    fused, dense = EMIM(32, 2, (3, 5), backend="triton"), EMIM(32, 2, (3, 5), backend="dense")
    torch.nn.init.normal_(fused.motion_conv[2].weight, std=0.2)
    torch.nn.init.normal_(fused.motion_conv[2].bias)
    dense.load_state_dict(fused.state_dict())
    return fused, dense


def outputs_and_gradients(module: Callable[..., Tensor], parameters: Iterable[Tensor], x: Tensor) -> list[Tensor]:
    x = x.clone().requires_grad_()
    out = module(x, (3, 4, 5))
    return [out, *torch.autograd.grad(out.float().square().sum(), [x, *parameters])]


@needs_kernels
@pytest.mark.parametrize(("autocast", "tolerance"), [(False, 1e-5), (True, 3e-2)])
def test_triton_equals_dense_with_every_gradient(autocast: bool, tolerance: float) -> None:
    torch.manual_seed(0)
    fused, dense = triton_and_dense()
    x = torch.randn(2, 3 * 4 * 5, 32)
    exact = outputs_and_gradients(dense, dense.parameters(), x)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        ours = outputs_and_gradients(fused, fused.parameters(), x)
    names = ["output", "tokens", *(name for name, _ in fused.named_parameters())]
    for name, a, b in zip(names, ours, exact, strict=True):
        error = (a - b).abs().max() / b.abs().max()
        assert error < tolerance, f"{name}: {error:.1e}"


@needs_kernels
def test_triton_compiles_as_one_graph() -> None:
    torch.manual_seed(0)
    fused, _ = triton_and_dense()
    x = torch.randn(1, 3 * 4 * 5, 32)
    compiled = torch.compile(fused, backend="aot_eager", fullgraph=True)
    for a, b in zip(
        outputs_and_gradients(compiled, fused.parameters(), x),
        outputs_and_gradients(fused, fused.parameters(), x),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_motion_uses_the_raw_affinity() -> None:
    # A constant added to rpb leaves the softmax, and so appearance, as it is; the motion path must see it.
    torch.manual_seed(0)
    emim = EMIM(8, 2, window=3)
    x = torch.randn(1, 2 * 4 * 4, 8)
    before = emim(x, (2, 4, 4))
    with torch.no_grad():
        emim.rpb += 1.0
    torch.testing.assert_close(emim(x, (2, 4, 4)), before)
    torch.nn.init.normal_(emim.motion_conv[2].weight)
    with_motion = emim(x, (2, 4, 4))
    with torch.no_grad():
        emim.rpb -= 1.0
    assert not torch.allclose(emim(x, (2, 4, 4)), with_motion)


def test_bf16_autocast_trains() -> None:
    emim = EMIM(16, 2, window=3)
    torch.nn.init.normal_(emim.motion_conv[2].weight)
    with torch.autocast("cpu", torch.bfloat16):
        out = emim(torch.randn(1, 2 * 4 * 4, 16), (2, 4, 4))
    out.float().square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in emim.parameters())


def test_quick_gelu() -> None:
    z = torch.linspace(-6, 6, 101, dtype=torch.float64)
    torch.testing.assert_close(QuickGELU()(z), z * torch.sigmoid(1.702 * z))


def test_a_wrong_grid_is_named() -> None:
    with pytest.raises(ClipSizeError, match="2 x 3 x 4 has 24 tokens, but x has 25"):
        EMIM(8, 2)(torch.zeros(1, 25, 8), (2, 3, 4))


@pytest.mark.parametrize("window", [0, 4, (3, 2)])
def test_even_windows_are_refused(window: int | tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="odd on both sides"):
        EMIM(8, 2, window)


@pytest.mark.parametrize("module", [EMIM, SelfAttention])
def test_heads_must_divide_the_channels(module: type) -> None:
    with pytest.raises(ValueError, match="dim 10 does not divide into 3 heads"):
        module(10, 3)


def test_self_attention_is_softmax_attention() -> None:
    torch.manual_seed(0)
    attention = SelfAttention(8, 2).double()
    x = torch.randn(2, 5, 8, dtype=torch.float64)
    q, k, v = attention.qkv(x).reshape(2, 5, 3, 2, 4).permute(2, 0, 3, 1, 4)
    weights = (q @ k.transpose(-1, -2) * 4**-0.5).softmax(-1)
    expected = attention.proj((weights @ v).transpose(1, 2).reshape(2, 5, 8))
    torch.testing.assert_close(attention(x), expected)
