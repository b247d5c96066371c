"""Every backend against the reference, and the reference against the sentences of the method."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from emim.errors import OpInputError, UnknownNameError
from emim.ops import BACKENDS, cost_volume_attention
from emim.ops.dense import cost_volume_dense

HERE = [name for name, backend in BACKENDS.items() if backend.why_not_here(torch.device("cpu")) is None]
PORTABLE_BACKENDS = sorted(set(HERE) - {"triton"})  # test_triton.py tests that one
FAST_BACKENDS = sorted(set(PORTABLE_BACKENDS) - {"reference"})
Inputs = tuple[Tensor, Tensor, Tensor, Tensor]

SHAPES = [  # B, N, T, H, W, D, I, J
    pytest.param((2, 3, 4, 5, 6, 8, 3, 3), id="plain"),
    pytest.param((1, 2, 1, 4, 5, 4, 3, 3), id="one-frame"),
    pytest.param((1, 1, 2, 3, 3, 4, 7, 7), id="grid-smaller-than-window"),
    pytest.param((1, 2, 3, 2, 9, 4, 5, 3), id="height-smaller-than-window"),
    pytest.param((1, 2, 3, 9, 1, 4, 3, 7), id="width-smaller-than-window"),
    pytest.param((1, 1, 3, 6, 5, 4, 1, 1), id="window-of-one"),
    pytest.param((1, 1, 2, 40, 11, 3, 7, 5), id="several-bands"),
    pytest.param((1, 1, 2, 5, 300, 2, 3, 3), id="bands-of-few-rows"),
]


def make_inputs(shape: tuple[int, ...], dtype: torch.dtype = torch.float64, seed: int = 0) -> Inputs:
    B, N, T, H, W, D, I, J = shape
    generator = torch.Generator().manual_seed(seed)
    q, k, v = (torch.randn(B, N, T, H, W, D, generator=generator, dtype=torch.float64).to(dtype) for _ in range(3))
    return q, k, v, torch.randn(N, I, J, generator=generator, dtype=torch.float64).to(dtype)


def loops(q: Tensor, k: Tensor, v: Tensor, rpb: Tensor) -> tuple[Tensor, Tensor]:
    """docs/method.md, steps 2 to 5, with one Python loop for each index, nothing vectorised."""
    B, N, T, H, W, D = q.shape
    _, I, J = rpb.shape
    context = torch.zeros_like(q)
    affinity = torch.zeros(B, N, T, H, W, I * J, dtype=q.dtype)
    pad = torch.full((D,), 1e-6, dtype=q.dtype)
    for b in range(B):
        for n in range(N):
            for t in range(T):
                query_frame = max(0, T - 2) if t == T - 1 else t
                key_frame = min(query_frame + 1, T - 1)
                for y in range(H):
                    for x in range(W):
                        values = []
                        for i in range(I):
                            for j in range(J):
                                ky, kx = y + i - I // 2, x + j - J // 2
                                inside = 0 <= ky < H and 0 <= kx < W
                                key = k[b, n, key_frame, ky, kx] if inside else pad
                                values.append(v[b, n, key_frame, ky, kx] if inside else pad)
                                dot = (q[b, n, query_frame, y, x] * key).sum() / D**0.5
                                affinity[b, n, t, y, x, i * J + j] = dot + rpb[n, i, j]
                        weights = affinity[b, n, t, y, x].softmax(0)
                        context[b, n, t, y, x] = (weights[:, None] * torch.stack(values)).sum(0)
    return context, affinity


@pytest.mark.parametrize("shape", [(2, 2, 3, 3, 4, 3, 3, 5), (1, 1, 1, 2, 2, 3, 3, 3), (1, 1, 2, 2, 2, 2, 5, 5)])
def test_reference_is_the_method_written_out(shape: tuple[int, ...]) -> None:
    inputs = make_inputs(shape)
    context, affinity = cost_volume_attention(*inputs, backend="reference", return_affinity=True)
    expected_context, expected_affinity = loops(*inputs)
    torch.testing.assert_close(affinity, expected_affinity, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(context, expected_context, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("backend", FAST_BACKENDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_every_gradient_equal_the_reference(backend: str, shape: tuple[int, ...]) -> None:
    results = []
    for name in ("reference", backend):
        leaves = [x.clone().requires_grad_() for x in make_inputs(shape)]
        context, affinity = cost_volume_attention(*leaves, backend=name, return_affinity=True)
        # Different weights for each output, so that no gradient cancels.
        generator = torch.Generator().manual_seed(1)
        loss = sum((x * torch.randn(x.shape, generator=generator, dtype=x.dtype)).sum() for x in (context, affinity))
        loss.backward()
        results.append([context, affinity, *(leaf.grad for leaf in leaves)])
    for ours, expected in zip(*reversed(results), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("backend", FAST_BACKENDS)
@settings(max_examples=40, deadline=None)
@given(
    grid=st.tuples(st.integers(1, 3), st.integers(1, 19), st.integers(1, 19)),
    window=st.tuples(st.sampled_from([1, 3, 5, 7]), st.sampled_from([1, 3, 5, 9])),
    batch=st.tuples(st.integers(1, 2), st.integers(1, 2), st.integers(1, 4)),
    seed=st.integers(0, 2**16),
)
def test_any_size_equals_the_reference(
    backend: str, grid: tuple[int, ...], window: tuple[int, int], batch: tuple[int, ...], seed: int
) -> None:
    B, N, D = batch
    inputs = make_inputs((B, N, *grid, D, *window), seed=seed)
    ours = cost_volume_attention(*inputs, backend=backend, return_affinity=True)
    expected = cost_volume_attention(*inputs, backend="reference", return_affinity=True)
    torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("backend", PORTABLE_BACKENDS)
@pytest.mark.parametrize("shape", [(1, 2, 3, 3, 2, 2, 3, 3), (1, 1, 1, 2, 3, 2, 3, 5)])
def test_gradcheck(backend: str, shape: tuple[int, ...]) -> None:
    leaves = [x.requires_grad_() for x in make_inputs(shape)]
    assert torch.autograd.gradcheck(
        lambda *inputs: cost_volume_attention(*inputs, backend=backend, return_affinity=True), leaves
    )


@pytest.mark.parametrize("backend", FAST_BACKENDS)
def test_non_contiguous_inputs(backend: str) -> None:
    q, k, v, rpb = make_inputs((2, 3, 4, 5, 6, 8, 3, 5))
    twisted = [x.permute(5, 4, 3, 2, 1, 0).contiguous().permute(5, 4, 3, 2, 1, 0) for x in (q, k, v)]
    twisted_rpb = rpb.transpose(1, 2).contiguous().transpose(1, 2)
    assert not any(x.is_contiguous() for x in (*twisted, twisted_rpb))
    ours = cost_volume_attention(*twisted, twisted_rpb, backend=backend)
    torch.testing.assert_close(ours, cost_volume_attention(q, k, v, rpb, backend="reference"))


@pytest.mark.parametrize("backend", PORTABLE_BACKENDS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_inputs_are_computed_in_float32(backend: str, dtype: torch.dtype) -> None:
    low = make_inputs((1, 2, 3, 6, 5, 16, 3, 3), dtype)
    context, affinity = cost_volume_attention(*low, backend=backend, return_affinity=True)
    exact = [x.double() for x in low]
    exact_context, exact_affinity = cost_volume_attention(*exact, backend="reference", return_affinity=True)
    assert context.dtype == dtype
    assert affinity.dtype == torch.float32
    torch.testing.assert_close(affinity.double(), exact_affinity, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(context.double(), exact_context, rtol=2 * torch.finfo(dtype).eps, atol=1e-3)


@pytest.mark.parametrize("backend", FAST_BACKENDS)
def test_autocast_changes_nothing(backend: str) -> None:
    inputs = make_inputs((1, 2, 3, 6, 5, 16, 3, 3), torch.float32)
    plain = cost_volume_attention(*inputs, backend=backend, return_affinity=True)
    with torch.autocast("cpu", torch.bfloat16):
        cast = cost_volume_attention(*inputs, backend=backend, return_affinity=True)
    for one, other in zip(plain, cast, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("backend", PORTABLE_BACKENDS)
def test_last_two_frames_are_equal(backend: str) -> None:
    inputs = make_inputs((1, 2, 4, 3, 3, 4, 3, 3))
    context, affinity = cost_volume_attention(*inputs, backend=backend, return_affinity=True)
    assert torch.equal(context[:, :, -1], context[:, :, -2])
    assert torch.equal(affinity[:, :, -1], affinity[:, :, -2])
    assert not torch.allclose(context[:, :, -2], context[:, :, -3])


def test_an_entry_means_one_displacement() -> None:
    # One bright key moves by (dy, dx) = (1, -2) from frame 0 to 1: the affinity's peak says so.
    q = torch.zeros(1, 1, 2, 9, 9, 4)
    q[0, 0, 0, 4, 5] = 1.0
    k = torch.zeros_like(q)
    k[0, 0, 1, 5, 3] = 1.0
    _, affinity = cost_volume_attention(q, k, q, torch.zeros(1, 5, 7), return_affinity=True)
    peak = int(affinity[0, 0, 0, 4, 5].argmax())
    assert (peak // 7 - 2, peak % 7 - 3) == (1, -2)


@pytest.mark.parametrize("backend", FAST_BACKENDS)
def test_bit_identical_from_run_to_run(backend: str) -> None:
    inputs = make_inputs((2, 3, 4, 14, 14, 16, 7, 7), torch.float32)
    once, again = (cost_volume_attention(*inputs, backend=backend) for _ in range(2))
    assert torch.equal(once, again)


def test_bands_cover_large_grids_in_bounded_memory() -> None:
    # 96 x 96 tokens in one product would need 96^4 * 8 bytes = 680 MB for one frame pair.
    q, k, v, rpb = make_inputs((1, 1, 1, 96, 96, 2, 3, 3))
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            if isinstance(out, Tensor):
                largest = max(largest, out.untyped_storage().nbytes())
            return out

    with Watch():
        cost_volume_dense(q, k, v, rpb)
    assert largest < 40e6


@pytest.mark.slow
@pytest.mark.parametrize("grid", [(4, 6, 5), (2, 40, 11)])
def test_compiles_as_one_graph(grid: tuple[int, int, int]) -> None:
    inputs = make_inputs((1, 2, *grid, 8, 3, 3), torch.float32)
    compiled = torch.compile(
        lambda *x: cost_volume_attention(*x, backend="dense", return_affinity=True), fullgraph=True
    )
    expected = cost_volume_attention(*inputs, backend="reference", return_affinity=True)
    torch.testing.assert_close(compiled(*inputs), expected, rtol=1e-4, atol=1e-5)


def test_exports() -> None:
    class Op(torch.nn.Module):
        def forward(self, q: Tensor, k: Tensor, v: Tensor, rpb: Tensor) -> Tensor:
            return cost_volume_attention(q, k, v, rpb, backend="dense")

    inputs = make_inputs((1, 2, 3, 6, 5, 8, 3, 3), torch.float32)
    exported = torch.export.export(Op(), inputs).module()
    fresh = make_inputs((1, 2, 3, 6, 5, 8, 3, 3), torch.float32, seed=5)
    torch.testing.assert_close(exported(*fresh), cost_volume_attention(*fresh))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda q, k, v, r: (q[0], k, v, r), r"q must be \[B, heads, T, H, W, head width\]"),
        (lambda q, k, v, r: (q[:, :, :0], k[:, :, :0], v[:, :, :0], r), "no empty side"),
        (lambda q, k, v, r: (q, k[..., :2], v, r), r"k must have the shape of q.*got \[1, 2, 3, 4, 4, 2\]"),
        (lambda q, k, v, r: (q, k, v.float(), r), "v is torch.float32"),
        (lambda q, k, v, r: (q.long(), k.long(), v.long(), r), "floating point"),
        (lambda q, k, v, r: (q, k, v, r[:1]), r"with 2 heads, got \[1, 3, 3\]"),
        (lambda q, k, v, r: (q, k, v, r[:, :2]), "odd on both sides, got 2 x 3"),
    ],
)
def test_wrong_inputs_are_named(change: object, message: str) -> None:
    inputs = make_inputs((1, 2, 3, 4, 4, 4, 3, 3))
    with pytest.raises(OpInputError, match=message):
        cost_volume_attention(*change(*inputs))


def test_unknown_backend_suggests_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'dense'"):
        cost_volume_attention(*make_inputs((1, 1, 1, 2, 2, 2, 3, 3)), backend="dens")
