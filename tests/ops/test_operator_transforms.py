"""The operator and the module in the hands of other tools: shapes alone, torch.func, export, tracing, quantisation."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.export import Dim

import emim
from emim.errors import OpInputError
from emim.nn import EMIM
from emim.ops import BACKENDS, backends, common, cost_volume_attention, explain_backend, motion_mlp

Inputs = tuple[Tensor, Tensor, Tensor, Tensor]
HERE = [name for name, backend in BACKENDS.items() if backend.why_not_here(torch.device("cpu")) is None]
GRID = (3, 4, 5)


def make_inputs(B: int = 1, T: int = 3, H: int = 4, W: int = 5, dtype: torch.dtype = torch.float32) -> Inputs:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(B, 2, T, H, W, 8, generator=generator, dtype=dtype) for _ in range(3))
    return q, k, v, torch.randn(2, 3, 3, generator=generator, dtype=dtype)


class Video(nn.Module):
    """EMIM on [B, T, H, W, C]."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.emim = EMIM(16, 2, 3, motion_start="correlation")

    def forward(self, x: Tensor) -> Tensor:
        B, T, H, W, C = x.shape
        out: Tensor = self.emim(x.reshape(B, T * H * W, C), (T, H, W))
        return out.reshape(B, T, H, W, C)


@pytest.fixture(autouse=True)
def fresh_warnings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(backends.ENVIRONMENT_VARIABLE, raising=False)
    monkeypatch.setattr(common, "_warned", set())


@pytest.mark.parametrize("shapes_alone", [FakeTensorMode, lambda: torch.device("meta")], ids=["fake", "meta"])
def test_tensors_without_values_get_shapes_and_gradients(shapes_alone: Callable[[], FakeTensorMode]) -> None:
    with shapes_alone():
        q = torch.randn(2, 2, 3, 4, 5, 8)
        context, affinity = cost_volume_attention(q, q, q, torch.zeros(2, 3, 3), return_affinity=True)
        motion = motion_mlp(affinity, torch.zeros(36, 9), torch.zeros(36), torch.zeros(8, 36), torch.zeros(8))
        module = EMIM(16, 2, 3)
        module(torch.randn(2, 60, 16), GRID).sum().backward()
        scores = emim.create_model("uniformer_small_emim", num_classes=5).eval()(torch.randn(1, 3, 4, 32, 32))
    assert context.shape == motion.shape == (2, 2, 3, 4, 5, 8)
    assert affinity.shape == (2, 2, 3, 4, 5, 9)
    assert module.rpb.grad is not None
    assert module.rpb.grad.shape == (2, 3, 3)
    assert scores.shape == (1, 5)


def second_gradients(backend: str | None) -> list[Tensor]:
    """Gradients of a penalty on gradients with respect to all inputs and the weights of the outputs."""
    inputs = [x.requires_grad_() for x in make_inputs(dtype=torch.float64)]
    weight = torch.linspace(-1, 1, 8, dtype=torch.float64, requires_grad=True)
    context, affinity = cost_volume_attention(*inputs, backend=backend, return_affinity=True)
    loss = (context * weight).square().sum() + affinity.square().sum()
    penalty = sum(grad.square().sum() for grad in torch.autograd.grad(loss, inputs, create_graph=True))
    return list(torch.autograd.grad(penalty, [*inputs, weight]))


@pytest.mark.skipif("cpp" not in HERE, reason="the compiled backend cannot run here")
def test_gradients_of_gradients_are_those_of_dense_with_one_warning() -> None:
    expected = second_gradients("dense")
    with pytest.warns(UserWarning, match="gradients of gradients: backend 'cpp' has none; using those of 'dense'"):
        ours = second_gradients(None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        second_gradients("cpp")
    for x, y in zip(ours, expected, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-9, atol=1e-9)


def test_function_transforms_run_dense_with_one_warning() -> None:
    q, k, v, rpb = make_inputs()

    def loss(q: Tensor, backend: str | None = None) -> Tensor:
        return cost_volume_attention(q, k, v, rpb, backend=backend).square().sum()

    if "cpp" in HERE:
        with pytest.warns(UserWarning, match=r"transforms of torch.func need 'dense'"):
            torch.func.grad(loss)(q)
        with pytest.raises(OpInputError, match=r"'cpp' cannot run: the transforms of torch.func need 'dense'"):
            torch.func.grad(lambda q: loss(q, "cpp"))(q)
    with warnings.catch_warnings():
        if "cpp" in HERE:
            warnings.simplefilter("error")
        ours = torch.func.grad(loss)(q)
        _, pull = torch.func.vjp(loss, q)
    torch.testing.assert_close(ours, torch.func.grad(lambda q: loss(q, "reference"))(q), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(pull(torch.tensor(1.0))[0], ours)
    assert "torch.func" not in str(explain_backend(q, k, v, rpb))  # outside of them nothing changes


@pytest.mark.filterwarnings("ignore:cost_volume_attention")
def test_function_transforms_of_a_network() -> None:
    network = emim.create_model("uniformer_small_emim", num_classes=5).eval()
    clip = torch.randn(1, 3, 4, 32, 32)

    def loss(weights: dict[str, Tensor]) -> Tensor:
        scores: Tensor = torch.func.functional_call(network, weights, (clip,))
        return scores.square().sum()

    weights = dict(network.named_parameters())
    ours = torch.func.grad(loss)(weights)
    expected = torch.autograd.grad(loss(weights), list(weights.values()))
    for name, grad in zip(weights, expected, strict=True):
        assert (ours[name] - grad).abs().max() <= 1e-3 * grad.abs().max() + 1e-6, name


@pytest.mark.parametrize("backend", [*HERE, None])
def test_an_empty_batch_gives_empty_results(backend: str | None) -> None:
    inputs = [x.requires_grad_() for x in make_inputs(B=0)]
    context, affinity = cost_volume_attention(*inputs, backend=backend, return_affinity=True)
    assert context.shape == (0, 2, 3, 4, 5, 8)
    assert affinity.shape == (0, 2, 3, 4, 5, 9)
    motion = motion_mlp(
        affinity, torch.zeros(36, 9), torch.zeros(36), torch.zeros(8, 36), torch.zeros(8), backend=backend
    )
    (context.sum() + motion.sum()).backward()
    q, _, _, rpb = inputs
    assert q.grad is not None
    assert q.grad.shape == q.shape
    assert rpb.grad is not None
    assert not rpb.grad.any()
    module = EMIM(16, 2, 3, backend=backend)
    x = torch.zeros(0, 60, 16, requires_grad=True)
    module(x, GRID).sum().backward()
    assert x.grad is not None
    assert module.rpb.grad is not None
    assert not module.rpb.grad.any()


def test_an_empty_batch_through_a_network() -> None:
    network = emim.create_model("uniformer_small_emim", num_classes=5)
    assert network.eval()(torch.zeros(0, 3, 4, 32, 32)).shape == (0, 5)
    network.train()(torch.zeros(0, 3, 4, 32, 32)).sum().backward()
    assert all(torch.isfinite(x).all() for x in network.state_dict().values())


@pytest.mark.parametrize("large", [(3, 5, 7, 9), (1, 4, 30, 31)], ids=["odd", "more-than-a-band"])
def test_an_exported_module_takes_other_sizes(large: tuple[int, int, int, int]) -> None:
    module = Video().eval()
    sizes = {0: Dim("B"), 1: Dim("T", min=3), 2: Dim("H"), 3: Dim("W")}
    exported = torch.export.export(module, (torch.randn(2, 4, 6, 5, 16),), dynamic_shapes=(sizes,))
    if large[0] == 1:
        large = (2, *large[1:])  # a graph with an open batch is for batches of two or more
    x = torch.randn(*large, 16)
    torch.testing.assert_close(exported.module()(x), module(x), rtol=1e-4, atol=1e-5)


def test_an_exported_network_takes_other_sizes() -> None:
    network = emim.create_model("uniformer_small_emim", num_classes=5).eval()
    sizes = {0: Dim.AUTO, 2: Dim.AUTO, 3: Dim.AUTO, 4: Dim.AUTO}
    exported = torch.export.export(network, (torch.randn(2, 3, 8, 64, 96),), dynamic_shapes=(sizes,))
    clip = torch.randn(3, 3, 12, 96, 64)
    with torch.no_grad():
        torch.testing.assert_close(exported.module()(clip), network(clip), rtol=1e-3, atol=1e-4)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_torchscript_traces_it() -> None:
    module, x = Video().eval(), torch.randn(1, *GRID, 16)
    traced = torch.jit.trace(module, (x,))
    fresh = torch.randn_like(x)
    torch.testing.assert_close(traced(fresh), module(fresh), rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_scripting_says_what_to_do_instead() -> None:
    with pytest.raises(TypeError, match=r"use torch.export.export or torch.jit.trace"):
        torch.jit.script(Video())


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_dynamic_quantisation_of_its_linear_layers() -> None:
    module, x = Video().eval(), torch.randn(1, *GRID, 16)
    quantised = torch.ao.quantization.quantize_dynamic(module, {nn.Linear}, dtype=torch.qint8)
    assert not isinstance(quantised.emim.motion_conv[0], nn.Linear)
    expected = module(x)
    assert (quantised(x) - expected).abs().max() < 0.1 * expected.abs().max()


def test_importing_the_module_does_not_load_the_compiler() -> None:
    code = "import sys; from emim.nn import EMIM; print([name for name in sys.modules if name == 'torch._dynamo'])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300)
    assert result.stdout.strip() == "[]"
