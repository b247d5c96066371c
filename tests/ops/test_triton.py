"""The triton backend against the reference computed in float64, on a GPU or in Triton's interpreter.

Inputs are new in every run; a failing test prints its seed. Memory that PyTorch hands out uninitialised is filled
with NaN throughout, so that a result that no program writes is seen.
"""

from __future__ import annotations

import dataclasses
import secrets

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from emim.ops import cost_volume_attention

pytest.importorskip("triton", reason="Triton is not installed (pip install 'emim[gpu]')")

from emim.ops.triton import INTERPRETED, tiles
from emim.ops.triton.cost_volume import _cost_volume

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
pytestmark = [
    pytest.mark.skipif(
        DEVICE == "cpu" and not INTERPRETED,
        reason="no GPU, and TRITON_INTERPRET=1 was not set before Triton was imported",
    ),
    pytest.mark.usefixtures("poisoned_memory"),
]

TOLERANCES = {torch.float32: 3e-6, torch.float16: 3e-3, torch.bfloat16: 2e-2}  # of the largest value
NAMES = ("context", "affinity", "gradient of q", "gradient of k", "gradient of v", "gradient of rpb")
Inputs = tuple[Tensor, Tensor, Tensor, Tensor]


def make_inputs(shape: tuple[int, ...], dtype: torch.dtype = torch.float32, seed: int | None = None) -> Inputs:
    seed = secrets.randbelow(2**32) if seed is None else seed
    print("seed", seed)
    B, N, T, H, W, D, I, J = shape
    generator = torch.Generator().manual_seed(seed)
    q, k, v = (torch.randn(B, N, T, H, W, D, generator=generator).to(DEVICE, dtype) for _ in range(3))
    return q, k, v, torch.randn(N, I, J, generator=generator).to(DEVICE)


def run(inputs: Inputs, backend: str, through: str = "both") -> list[Tensor | None]:
    """Context, affinity and every gradient, the loss being a weighted sum of one of the outputs or both."""
    leaves = [x.detach().requires_grad_() for x in inputs]
    context, affinity = cost_volume_attention(*leaves, backend=backend, return_affinity=True)
    generator = torch.Generator().manual_seed(1)
    weights = [torch.randn(x.shape, generator=generator).to(DEVICE, inputs[0].dtype) for x in (context, affinity)]
    outputs = {"context": [context], "affinity": [affinity], "both": [context, affinity]}[through]
    weights = {"context": weights[:1], "affinity": weights[1:], "both": weights}[through]
    torch.autograd.backward(outputs, [w.to(x.dtype) for w, x in zip(weights, outputs, strict=True)])
    return [context.detach(), affinity.detach(), *(leaf.grad for leaf in leaves)]


def run_exactly(inputs: Inputs, through: str = "both") -> list[Tensor | None]:
    """The same by the reference in float64, with the weights of `run` in the dtype of the inputs."""
    return run(tuple(x.double() for x in inputs), "reference", through)


def assert_equal_results(ours: list[Tensor | None], exact: list[Tensor | None], tolerance: float) -> None:
    for name, x, y in zip(NAMES, ours, exact, strict=True):
        if y is None:
            assert x is None or not x.any(), name
            continue
        assert x is not None, name
        limit = 3e-6 if name == "affinity" else tolerance
        # Gradients are sums of terms of size 1, which may cancel; their rounding does not.
        scale = max(float(y.abs().max()), 1.0 if name.startswith("gradient") else 1e-2)
        torch.testing.assert_close(x.double(), y, rtol=0, atol=limit * scale, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [  # B, N, T, H, W, D, I, J
        pytest.param((1, 2, 3, 9, 5, 16, 3, 3), torch.float32, id="several-frames-and-tiles"),
        pytest.param((1, 1, 1, 5, 3, 24, 5, 7), torch.float32, id="one-frame-smaller-than-window"),
        pytest.param((2, 1, 2, 3, 10, 64, 7, 7), torch.float32, id="two-frames-wide-heads"),
        pytest.param((1, 1, 2, 4, 3, 16, 15, 15), torch.float32, id="widest-window"),
        pytest.param((1, 1, 2, 2, 3, 128, 1, 3), torch.float32, id="widest-heads"),
        pytest.param((1, 1, 2, 3, 3, 5, 1, 1), torch.float32, id="window-of-one-narrow-heads"),
        pytest.param((1, 1, 2, 9, 4, 32, 7, 7), torch.float16, id="float16"),
        pytest.param((1, 1, 2, 9, 4, 32, 7, 7), torch.bfloat16, id="bfloat16"),
        pytest.param((1, 2, 1, 4, 9, 24, 3, 5), torch.bfloat16, id="bfloat16-one-frame"),
    ],
)
def test_values_and_every_gradient_equal_the_reference(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    inputs = make_inputs(shape, dtype)
    assert_equal_results(run(inputs, "triton"), run_exactly(inputs), TOLERANCES[dtype])


@settings(max_examples=5, deadline=None)
@given(
    grid=st.tuples(st.integers(1, 2), st.integers(1, 9), st.integers(1, 9)),
    window=st.tuples(st.sampled_from([1, 3, 5, 7]), st.sampled_from([1, 3, 5, 9])),
    width=st.integers(1, 20),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_size_equals_the_reference(
    grid: tuple[int, int, int], window: tuple[int, int], width: int, seed: int
) -> None:
    inputs = make_inputs((1, 1, *grid, width, *window), seed=seed)
    assert_equal_results(run(inputs, "triton"), run_exactly(inputs), TOLERANCES[torch.float32])


@pytest.mark.parametrize("through", ["context", "affinity"])
def test_gradients_through_one_output_alone(through: str) -> None:
    inputs = make_inputs((1, 1, 2, 4, 5, 16, 3, 3))
    assert_equal_results(run(inputs, "triton", through), run_exactly(inputs, through), TOLERANCES[torch.float32])


@pytest.mark.skipif(not INTERPRETED, reason="on a GPU the fastest tiling is taken")
@pytest.mark.parametrize(
    "tiling",
    [
        tiles.Tiling(4, 8, 32, warps=4, stages=1),
        tiles.Tiling(2, 16, 32, warps=4, stages=1),
        tiles.Tiling(16, 16, 32, warps=8, stages=2),
    ],
)
def test_every_tiling_gives_the_same(tiling: tiles.Tiling, monkeypatch: pytest.MonkeyPatch) -> None:
    for kernel in ("FORWARD", "QUERIES", "KEYS"):
        monkeypatch.setattr(tiles, kernel, dataclasses.replace(getattr(tiles, kernel), interpreted=tiling))
    inputs = make_inputs((1, 1, 1, 5, 17, 16, 5, 3))
    assert_equal_results(run(inputs, "triton"), run_exactly(inputs), TOLERANCES[torch.float32])


def test_affinity_is_stored_only_if_asked_for() -> None:
    inputs = make_inputs((1, 1, 3, 4, 5, 16, 3, 3))
    context, affinity, _ = _cost_volume(*inputs, False)
    assert affinity.numel() == 0
    assert torch.equal(context, cost_volume_attention(*inputs, backend="triton", return_affinity=True)[0])

    leaves = [x.clone().requires_grad_() for x in inputs]
    cost_volume_attention(*leaves, backend="triton").sum().backward()  # its gradient has no memory of its own
    exact = [x.double().requires_grad_() for x in inputs]
    cost_volume_attention(*exact, backend="reference").sum().backward()
    for x, y in zip(leaves, exact, strict=True):
        torch.testing.assert_close(x.grad.double(), y.grad, rtol=1e-5, atol=1e-5)


def test_frozen_bias_gets_no_gradient() -> None:
    q, k, v, rpb = make_inputs((1, 1, 2, 3, 3, 16, 3, 3))
    leaves = [x.requires_grad_() for x in (q, k, v)]
    cost_volume_attention(*leaves, rpb, backend="triton").sum().backward()
    assert rpb.grad is None
    assert all(x.grad is not None for x in leaves)


def test_unused_frames_are_not_read_and_have_no_gradient() -> None:
    inputs = make_inputs((1, 1, 3, 3, 4, 16, 3, 3))
    q, k, v, _ = inputs
    q[:, :, -1], k[:, :, 0], v[:, :, 0] = float("nan"), float("nan"), float("nan")
    context, affinity, grad_q, grad_k, grad_v, grad_rpb = run(inputs, "triton")
    for x in (context, affinity, grad_q, grad_k, grad_v, grad_rpb):
        assert torch.isfinite(x).all()
    assert not grad_q[:, :, -1].any()
    assert not grad_k[:, :, 0].any()
    assert not grad_v[:, :, 0].any()
    assert torch.equal(context[:, :, -1], context[:, :, -2])
    assert torch.equal(affinity[:, :, -1], affinity[:, :, -2])


def test_memory_layout_changes_nothing() -> None:
    q, k, v, rpb = make_inputs((1, 2, 2, 3, 5, 16, 3, 3))
    expected = run((q, k, v, rpb), "triton")
    # As a linear layer for all three makes them: [B, T, H, W, 3, N, D].
    qkv = torch.stack([q, k, v]).permute(1, 3, 4, 5, 0, 2, 6).contiguous()
    views = tuple(qkv.permute(4, 0, 5, 1, 2, 3, 6))
    results = run((*views, rpb), "triton")
    assert results[0].permute(0, 2, 3, 4, 1, 5).is_contiguous()  # heads side by side again, without a copy
    # Channels apart, which the kernels cannot index.
    apart = tuple(x.transpose(4, 5).contiguous().transpose(4, 5) for x in (q, k, v))
    for other in (results, run((*apart, rpb.transpose(1, 2).contiguous().transpose(1, 2)), "triton")):
        for x, y in zip(other, expected, strict=True):
            assert torch.equal(x, y)


def test_bit_identical_from_run_to_run() -> None:
    inputs = make_inputs((1, 1, 2, 9, 3, 16, 3, 3), torch.float16)
    for x, y in zip(run(inputs, "triton"), run(inputs, "triton"), strict=True):
        assert torch.equal(x, y)


def test_operator_is_registered_as_pytorch_wants_it() -> None:
    inputs = [x.requires_grad_() for x in make_inputs((1, 1, 2, 2, 3, 16, 3, 3))]
    torch.use_deterministic_algorithms(False)  # opcheck compares memory that nothing has written, too
    torch.library.opcheck(_cost_volume, (*inputs, True))


def test_compiles_as_one_graph_with_gradients() -> None:
    inputs = make_inputs((1, 1, 2, 3, 4, 16, 3, 3))
    results = []
    compiled = torch.compile(
        lambda *x: cost_volume_attention(*x, backend="triton", return_affinity=True),
        backend="aot_eager",
        fullgraph=True,
    )
    for op in (compiled, lambda *x: cost_volume_attention(*x, backend="triton", return_affinity=True)):
        leaves = [x.clone().requires_grad_() for x in inputs]
        context, affinity = op(*leaves)
        (context.square().sum() + affinity.square().sum()).backward()
        results.append([context, affinity, *(leaf.grad for leaf in leaves)])
    for x, y in zip(*results, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-6, atol=1e-6)


def test_exports() -> None:
    class Op(torch.nn.Module):
        def forward(self, q: Tensor, k: Tensor, v: Tensor, rpb: Tensor) -> Tensor:
            return cost_volume_attention(q, k, v, rpb, backend="triton")

    shape = (1, 1, 2, 3, 3, 16, 3, 3)
    exported = torch.export.export(Op(), make_inputs(shape)).module()
    fresh = make_inputs(shape)
    torch.testing.assert_close(exported(*fresh), cost_volume_attention(*fresh, backend="dense"))
