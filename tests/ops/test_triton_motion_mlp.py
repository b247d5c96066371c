"""The fused motion MLP against its definition computed in float64, on a GPU or in Triton's interpreter.

Inputs are new in every run; a failing test prints its seed. Memory that PyTorch hands out uninitialised is filled
with NaN throughout, so that a result that no program writes is seen.
"""

from __future__ import annotations

import dataclasses
import secrets
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from emim.errors import OpInputError
from emim.ops import motion_mlp

pytest.importorskip("triton", reason="Triton is not installed (pip install 'emim[gpu]')")

from emim.ops.triton import INTERPRETED, tiles
from emim.ops.triton import motion_mlp as motion_launch
from emim.ops.triton.motion_mlp import _motion_mlp

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
pytestmark = [
    pytest.mark.skipif(
        DEVICE == "cpu" and not INTERPRETED,
        reason="no GPU, and TRITON_INTERPRET=1 was not set before Triton was imported",
    ),
    pytest.mark.usefixtures("poisoned_memory"),
]

TOLERANCES = {torch.float32: 3e-6, torch.float16: 3e-3, torch.bfloat16: 2e-2}  # of the largest value
NAMES = ("affinity", "weight1", "bias1", "weight2", "bias2")
Inputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def make_inputs(
    rows: tuple[int, ...], P: int, U: int, D: int, dtype: torch.dtype = torch.float32, seed: int | None = None
) -> Inputs:
    """An affinity of rows [B, N, T, H, W] in float32, and weights that keep the size of what they multiply."""
    seed = secrets.randbelow(2**32) if seed is None else seed
    print("seed", seed)
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int, size: float = 1.0) -> Tensor:
        return (torch.randn(shape, generator=generator) * size).to(DEVICE)

    weights = (draw(U, P, size=P**-0.5), draw(U), draw(D, U, size=U**-0.5), draw(D))
    return (draw(*rows, P), *(x.to(dtype) for x in weights))


def definition(affinity: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor, bias2: Tensor) -> Tensor:
    z = torch.einsum("...p,up->...u", affinity, weight1) + bias1
    return torch.einsum("...u,du->...d", z / (1 + torch.exp(-1.702 * z)), weight2) + bias2


def weights_of_loss(shape: torch.Size, dtype: torch.dtype) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(DEVICE, dtype)


def run_exactly(inputs: Inputs) -> dict[str, Tensor]:
    """Result and every gradient of a weighted sum of it, by the definition in float64."""
    leaves = [x.detach().double().requires_grad_() for x in inputs]
    motion = definition(*leaves)
    motion.backward(weights_of_loss(motion.shape, inputs[1].dtype).double())
    return {"motion": motion.detach()} | {name: x.grad for name, x in zip(NAMES, leaves, strict=True)}


def run(inputs: Inputs, backend: str = "triton") -> dict[str, Tensor]:
    """The same by a backend."""
    leaves = [x.detach().requires_grad_() for x in inputs]
    motion = motion_mlp(*leaves, backend=backend)
    motion.backward(weights_of_loss(motion.shape, motion.dtype))
    return {"motion": motion.detach()} | {name: x.grad for name, x in zip(NAMES, leaves, strict=True)}


def assert_equal_results(ours: dict[str, Tensor], exact: dict[str, Tensor], tolerance: float) -> None:
    for name, y in exact.items():
        # Results are sums of terms of size 1, which may cancel; their rounding does not.
        scale = max(float(y.abs().max()), 1.0)
        torch.testing.assert_close(
            ours[name].double(), y, rtol=0, atol=tolerance * scale, msg=lambda m, name=name: f"{name}: {m}"
        )


@pytest.mark.parametrize(
    ("rows", "P", "U", "D", "dtype"),
    [
        pytest.param((2, 3, 2, 3, 5), 9, 36, 16, torch.float32, id="clips-and-heads"),
        pytest.param((1, 1, 1, 1, 1), 1, 4, 1, torch.float32, id="one-row-window-of-one"),
        pytest.param((1, 2, 2, 4, 9), 35, 140, 24, torch.float32, id="several-tiles-window-not-square"),
        pytest.param((1, 1, 1, 3, 3), 225, 70, 128, torch.float32, id="widest-window-widest-heads"),
        pytest.param((1, 1, 1, 2, 3), 25, 7, 5, torch.float32, id="few-hidden-units"),
        pytest.param((1, 2, 2, 6, 6), 49, 196, 64, torch.float16, id="float16"),
        pytest.param((1, 2, 2, 6, 6), 49, 196, 64, torch.bfloat16, id="bfloat16"),
    ],
)
def test_values_and_every_gradient_equal_the_definition(
    rows: tuple[int, ...], P: int, U: int, D: int, dtype: torch.dtype
) -> None:
    inputs = make_inputs(rows, P, U, D, dtype)
    ours = run(inputs)
    assert ours["motion"].dtype == ours["weight1"].dtype == ours["bias2"].dtype == dtype
    assert ours["affinity"].dtype == torch.float32
    assert_equal_results(ours, run_exactly(inputs), TOLERANCES[dtype])


@settings(max_examples=5, deadline=None)
@given(
    rows=st.tuples(*[st.integers(1, 3)] * 5),
    window=st.tuples(st.sampled_from([1, 3, 5, 7]), st.sampled_from([1, 3, 5, 9])),
    hidden=st.integers(1, 140),
    width=st.integers(1, 40),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_size_equals_the_definition(
    rows: tuple[int, ...], window: tuple[int, int], hidden: int, width: int, seed: int
) -> None:
    inputs = make_inputs(rows, window[0] * window[1], hidden, width, seed=seed)
    assert_equal_results(run(inputs), run_exactly(inputs), TOLERANCES[torch.float32])


@pytest.mark.skipif(not INTERPRETED, reason="on a GPU the tiling is chosen")
@pytest.mark.parametrize(
    "tiling",
    [
        tiles.RowTiling(16, 16, warps=4, stages=1),
        tiles.RowTiling(32, 128, warps=4, stages=1),
        tiles.RowTiling(256, 32, warps=8, stages=2),
    ],
)
@pytest.mark.parametrize("programs", [1, 1024])
def test_every_tiling_and_grouping_gives_the_same(
    tiling: tiles.RowTiling, programs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(motion_launch, "_PROGRAMS", programs)  # one group of many tiles, or one tile for each
    for kernel in ("MOTION", "MOTION_AFFINITY", "MOTION_WEIGHTS"):
        monkeypatch.setattr(tiles, kernel, dataclasses.replace(getattr(tiles, kernel), interpreted=tiling))
    inputs = make_inputs((1, 3, 1, 7, 5), 9, 36, 16)
    assert_equal_results(run(inputs), run_exactly(inputs), TOLERANCES[torch.float32])


def test_memory_layout_changes_nothing() -> None:
    inputs = make_inputs((2, 2, 2, 3, 2), 9, 36, 16)
    affinity, weight1, bias1, weight2, bias2 = inputs
    expected = run(inputs)
    assert expected["motion"].permute(0, 2, 3, 4, 1, 5).is_contiguous()  # heads side by side, as the projection wants
    apart = affinity.movedim(5, 0).contiguous().movedim(0, 5)
    others = [weight1.T.contiguous().T, bias1.repeat_interleave(2)[::2], weight2.T.contiguous().T, bias2]
    for name, x in run((apart, *others)).items():
        assert torch.equal(x, expected[name]), name
    # Gradients come in any layout, too: heads apart, features apart, one number for all.
    leaves = [x.clone().requires_grad_() for x in inputs]
    weights = weights_of_loss(expected["motion"].shape, torch.float32)
    for layout in (weights.contiguous(), weights.movedim(5, 0).contiguous().movedim(0, 5)):
        grads = torch.autograd.grad(motion_mlp(*leaves, backend="triton"), leaves, layout)
        assert all(torch.equal(x, expected[name]) for x, name in zip(grads, NAMES, strict=True))
    grads = torch.autograd.grad(motion_mlp(*leaves, backend="triton").sum(), leaves)
    exact = [x.double().requires_grad_() for x in inputs]
    for x, y in zip(grads, torch.autograd.grad(definition(*exact).sum(), exact), strict=True):
        torch.testing.assert_close(x.double(), y, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("frozen", [("affinity",), ("weight1", "bias1", "weight2", "bias2"), ("weight1", "bias2")])
def test_frozen_inputs_get_no_gradient(frozen: tuple[str, ...]) -> None:
    inputs = make_inputs((1, 1, 1, 3, 3), 9, 36, 16)
    expected = run(inputs)
    leaves = {name: x.clone().requires_grad_(name not in frozen) for name, x in zip(NAMES, inputs, strict=True)}
    motion = motion_mlp(*leaves.values(), backend="triton")
    motion.backward(weights_of_loss(motion.shape, motion.dtype))
    for name, x in leaves.items():
        assert x.grad is None if name in frozen else torch.equal(x.grad, expected[name])


class LargestResult(TorchDispatchMode):
    """The bytes of the largest tensor that an operator returns."""

    bytes = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        tensors = [x for x in (result if isinstance(result, tuple) else [result]) if isinstance(x, Tensor)]
        self.bytes = max([self.bytes, *(x.nbytes for x in tensors)])
        return result


def test_the_hidden_units_are_never_stored() -> None:
    inputs = make_inputs((1, 2, 4, 16, 16), 9, 144, 16)
    affinity, weight1, bias1, weight2, _ = inputs
    hidden_units = affinity[..., 0].nbytes * len(weight1)
    with LargestResult() as portable:  # with gradients, as it takes blocks of rows without
        motion = motion_mlp(*(x.detach().requires_grad_() for x in inputs), backend="dense").detach()
    assert portable.bytes == hidden_units
    # Below the registered operators, which are one call each to a dispatch mode.
    with LargestResult() as fused:
        motion_launch.forward(*inputs, torch.float32)
        motion_launch.backward(motion, affinity, weight1, bias1, weight2, torch.float32, True, True)
    assert affinity.nbytes <= fused.bytes < hidden_units / 2

    kept: list[Tensor] = []
    leaves = [x.requires_grad_() for x in inputs]
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        motion_mlp(*leaves, backend="triton")
    assert sum(x.numel() for x in kept) <= sum(x.numel() for x in inputs)


def test_bit_identical_from_run_to_run() -> None:
    inputs = make_inputs((1, 2, 2, 9, 5), 9, 36, 16, torch.float16)
    first, second = run(inputs), run(inputs)
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_rounds_factors_but_not_the_gradients_of_weights(dtype: torch.dtype) -> None:
    inputs = make_inputs((1, 1, 2, 4, 5), 9, 36, 16)
    with torch.autocast(DEVICE, dtype):
        ours, portable = run(inputs), run(inputs, "dense")
    assert ours["motion"].dtype == portable["motion"].dtype == dtype
    assert ours["weight1"].dtype == ours["bias2"].dtype == torch.float32
    assert_equal_results(ours, run_exactly(inputs), TOLERANCES[dtype])
    assert (ours["weight1"] != ours["weight1"].to(dtype)).any()


def test_operator_is_registered_as_pytorch_wants_it() -> None:
    inputs = [x.requires_grad_() for x in make_inputs((1, 2, 2, 2, 3), 9, 20, 16)]
    torch.use_deterministic_algorithms(False)  # opcheck compares memory that nothing has written, too
    torch.library.opcheck(_motion_mlp, (*inputs, torch.float32))


@pytest.mark.parametrize("autocast", [False, True])
def test_compiles_as_one_graph_with_gradients(autocast: bool) -> None:
    inputs = make_inputs((1, 2, 2, 3, 4), 9, 36, 16)
    results = []
    compiled = torch.compile(lambda *x: motion_mlp(*x, backend="triton"), backend="aot_eager", fullgraph=True)
    for op in (compiled, lambda *x: motion_mlp(*x, backend="triton")):
        leaves = [x.clone().requires_grad_() for x in inputs]
        with torch.autocast(DEVICE, torch.bfloat16, enabled=autocast):
            motion = op(*leaves)
        motion.square().sum().backward()
        results.append([motion, *(leaf.grad for leaf in leaves)])
    assert results[0][0].dtype == (torch.bfloat16 if autocast else torch.float32)
    for x, y in zip(*results, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-6, atol=1e-6)


def test_exports() -> None:
    class Op(torch.nn.Module):
        def forward(self, *inputs: Tensor) -> Tensor:
            return motion_mlp(*inputs, backend="triton")

    sizes = ((1, 2, 2, 3, 3), 9, 36, 16)
    exported = torch.export.export(Op(), make_inputs(*sizes)).module()
    fresh = make_inputs(*sizes)
    torch.testing.assert_close(exported(*fresh), motion_mlp(*fresh, backend="dense"))


def test_what_the_kernels_cannot_take_is_named() -> None:
    inputs = make_inputs((1, 1, 1, 2, 2), 9, 20, 16)
    doubled = [x.double() for x in inputs]
    with pytest.raises(OpInputError, match=r"'triton' of motion_mlp cannot run: it takes an affinity in float32, not"):
        motion_mlp(doubled[0], *inputs[1:], backend="triton")
    with pytest.raises(OpInputError, match=r"it takes float32, float16 and bfloat16, not torch\.float64"):
        motion_mlp(*doubled, backend="triton")
    with pytest.raises(OpInputError, match="256 displacements, more than 225"):
        motion_mlp(*make_inputs((1, 1, 1, 1, 1), 256, 4, 4), backend="triton")
    with pytest.raises(OpInputError, match="the head width 130 is above 128"):
        motion_mlp(*make_inputs((1, 1, 1, 1, 1), 9, 4, 130), backend="triton")
    assert motion_mlp(*doubled, backend="auto").dtype == torch.float64
