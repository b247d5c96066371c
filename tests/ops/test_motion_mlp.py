"""The motion MLP in PyTorch, and when the kernels run instead; test_triton_motion.py is about those."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from backends_here import why_not
from emim.errors import OpInputError, UnknownNameError
from emim.nn.emim import QuickGELU
from emim.ops import explain_backend, motion_mlp
from emim.ops.backends import ENVIRONMENT_VARIABLE


def layers(P: int = 9, U: int = 36, D: int = 4) -> tuple[nn.Linear, nn.Linear]:
    return nn.Linear(P, U), nn.Linear(U, D)


def weights_of(*linear: nn.Linear) -> list[Tensor]:
    return [x for layer in linear for x in (layer.weight, layer.bias)]


@pytest.mark.parametrize("autocast", [False, True])
def test_the_same_as_the_layers_one_by_one(autocast: bool) -> None:
    torch.manual_seed(0)
    first, last = layers()
    affinity = torch.randn(2, 2, 3, 4, 5, 9, requires_grad=True)
    inputs = [affinity, *weights_of(first, last)]
    results = []
    for run in (
        lambda: nn.Sequential(first, QuickGELU(), last)(affinity),
        lambda: motion_mlp(*inputs, backend="dense"),
    ):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            motion = run()
        results.append([motion, *torch.autograd.grad(motion.float().square().sum(), inputs)])
    # Matrix products take the rows in another order, and so may sum in another.
    tolerance = 1e-5 if not autocast else 1e-2
    for x, y in zip(*results, strict=True):
        assert (x - y).abs().max() <= tolerance * y.abs().max()


def test_gradients_are_right() -> None:
    torch.manual_seed(0)
    inputs = [torch.randn(1, 1, 2, 2, 1, 3), *weights_of(*layers(3, 5, 2))]
    doubled = [x.detach().double().requires_grad_() for x in inputs]
    assert torch.autograd.gradcheck(lambda *x: motion_mlp(*x, backend="reference"), doubled)


def test_the_affinity_is_rounded_to_the_dtype_of_the_weights() -> None:
    first, last = (layer.bfloat16() for layer in layers())
    affinity = torch.randn(1, 1, 1, 2, 2, 9)
    motion = motion_mlp(affinity, *weights_of(first, last), backend="dense")
    assert motion.dtype == torch.bfloat16
    assert torch.equal(motion, motion_mlp(affinity.bfloat16().float(), *weights_of(first, last), backend="dense"))


@pytest.mark.skipif(why_not("triton") is not None, reason="the fused kernels cannot run here")
def test_which_one_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    from emim.ops import triton

    ran = []
    kernels = triton.motion_mlp_triton
    monkeypatch.setattr(triton, "motion_mlp_triton", lambda *x, **y: ran.append(True) or kernels(*x, **y))

    def runs_triton(backend: str | None) -> bool:
        ran.clear()
        motion_mlp(torch.zeros(1, 1, 1, 1, 1, 9), *weights_of(*layers()), backend=backend)
        return bool(ran)

    assert runs_triton("triton")
    q = torch.zeros(1, 1, 1, 1, 1, 4)
    assert runs_triton("auto") == (explain_backend(q, q, q, torch.zeros(1, 3, 3), backend="auto").backend == "triton")
    assert not runs_triton("dense")
    assert not runs_triton("reference")
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, "triton")
    assert runs_triton(None)
    assert not runs_triton("dense")
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, "dense")
    assert not runs_triton(None)


def test_a_backend_that_does_not_exist_is_named() -> None:
    with pytest.raises(UnknownNameError, match=r"no backend 'tritn' of .*did you mean 'triton'"):
        motion_mlp(torch.zeros(1, 1, 1, 1, 1, 9), *weights_of(*layers()), backend="tritn")


@pytest.mark.parametrize(
    ("index", "wrong", "message"),
    [
        (0, torch.zeros(2, 9), r"the affinity must be .*, got \[2, 9\]"),
        (0, torch.zeros(1, 1, 0, 1, 1, 9), "with no empty side"),
        (1, torch.zeros(36, 8), r"weight1 must be \[hidden units, 9 displacements\], got \[36, 8\]"),
        (2, torch.zeros(35), r"bias1 must be \[36\], got \[35\]"),
        (3, torch.zeros(4, 35), r"weight2 must be \[features, 36 hidden units\], got \[4, 35\]"),
        (4, torch.zeros(4, 1), r"bias2 must be \[4\], got \[4, 1\]"),
        (3, torch.zeros(4, 36).half(), r"weight2 is torch\.float16, but weight1 is torch\.float32"),
        (4, torch.zeros(4, device="meta"), "bias2 is on meta, but the affinity is on cpu"),
    ],
)
def test_inputs_that_do_not_fit_are_named(index: int, wrong: Tensor, message: str) -> None:
    inputs = [torch.zeros(1, 1, 1, 2, 2, 9), *weights_of(*layers())]
    inputs[index] = wrong
    with pytest.raises(OpInputError, match=message):
        motion_mlp(*inputs)
