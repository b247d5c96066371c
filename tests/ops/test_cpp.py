"""The compiled backend: what it leaves alone, its registration, and machines on which it cannot be built.

Its values and gradients are tested with those of the other backends, in test_cost_volume.py.
"""

from __future__ import annotations

import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from emim.ops import cost_volume_attention, cpp, explain_backend
from emim.ops.cpp import library
from emim.ops.cpp.op import _cost_volume

needs_library = pytest.mark.skipif(cpp.why_no_library() is not None, reason=str(cpp.why_no_library()))
Inputs = tuple[Tensor, Tensor, Tensor, Tensor]


def make_inputs(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Inputs:
    B, N, T, H, W, D, I, J = shape
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(B, N, T, H, W, D, generator=generator).to(dtype) for _ in range(3))
    return q, k, v, torch.randn(N, I, J, generator=generator)


def run(inputs: Inputs, backend: str = "cpp") -> list[Tensor]:
    leaves = [x.detach().requires_grad_() for x in inputs]
    context, affinity = cost_volume_attention(*leaves, backend=backend, return_affinity=True)
    (context.float().square().sum() + affinity.square().sum()).backward()
    return [context, affinity, *(leaf.grad for leaf in leaves)]


@needs_library
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 3e-6), (torch.bfloat16, 1.5e-2), (torch.float16, 2e-3)]
)
@pytest.mark.parametrize(
    "shape", [(2, 3, 4, 9, 21, 20, 7, 7), (1, 2, 3, 60, 33, 64, 5, 17), (1, 1, 1, 5, 7, 130, 3, 9)]
)
def test_every_dtype_against_the_reference_in_float64(
    shape: tuple[int, ...], dtype: torch.dtype, tolerance: float
) -> None:
    if not cpp.takes(dtype):
        pytest.skip(f"compiled without {dtype}")
    inputs = make_inputs(shape, dtype)
    for ours, exact in zip(run(inputs), run(tuple(x.double() for x in inputs), "reference"), strict=True):
        assert (ours.double() - exact).abs().max() <= tolerance * exact.abs().max()


@needs_library
@pytest.mark.parametrize("vector_bytes", [16, 32, 64])
@pytest.mark.parametrize(
    "shape",
    [
        (1, 2, 3, 14, 14, 64, 7, 7), (2, 1, 4, 7, 7, 20, 7, 7), (1, 1, 1, 9, 21, 3, 5, 5), (1, 2, 2, 5, 17, 33, 3, 9),
        (1, 1, 2, 3, 2, 8, 9, 9), (1, 1, 2, 1, 1, 5, 3, 3), (1, 1, 3, 60, 33, 64, 9, 5),
    ],
    ids=str,
)  # fmt: skip
def test_every_width_of_vectors_against_the_reference(
    vector_bytes: int, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    if library.library().emim_vector_bytes() != vector_bytes:  # the processor's own width is built anyway
        monkeypatch.setenv(library.VECTOR_VARIABLE, str(vector_bytes))
    assert library.library().emim_vector_bytes() == vector_bytes
    # The loss that `run` differentiates is in float32.
    for dtype, tolerance in ((torch.float32, 3e-6), (torch.float64, 1e-6), (torch.bfloat16, 1.5e-2)):
        inputs = make_inputs(shape, dtype)
        for ours, exact in zip(run(inputs), run(tuple(x.double() for x in inputs), "reference"), strict=True):
            assert (ours.double() - exact).abs().max() <= tolerance * exact.abs().max()


def test_a_wrong_width_of_vectors_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(library.VECTOR_VARIABLE, "24")
    assert cpp.why_no_library() == "EMIM_CPP_VECTOR is '24', which is none of 16, 32, 64 bytes"
    x = torch.zeros(1, 1, 2, 3, 3, 4)
    assert explain_backend(x, x, x, torch.zeros(1, 3, 3)).backend == "dense"


@needs_library
def test_results_do_not_depend_on_threads() -> None:
    inputs = make_inputs((2, 2, 3, 9, 8, 16, 3, 3))
    threads = torch.get_num_threads()
    results = []
    for count in (1, 2, 5):
        torch.set_num_threads(count)
        results.append(run(inputs))
    torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(x, y) for x, y in zip(results[0], other, strict=True))


@needs_library
def test_unused_frames_are_not_read_and_have_no_gradient() -> None:
    inputs = make_inputs((1, 1, 3, 3, 4, 16, 3, 3))
    q, k, v, _ = inputs
    q[:, :, -1], k[:, :, 0], v[:, :, 0] = float("nan"), float("nan"), float("nan")
    results = run(inputs)
    assert all(torch.isfinite(x).all() for x in results)
    _, _, grad_q, grad_k, grad_v, _ = results
    assert not grad_q[:, :, -1].any()
    assert not grad_k[:, :, 0].any()
    assert not grad_v[:, :, 0].any()


@needs_library
def test_memory_layout_changes_nothing_and_is_kept() -> None:
    q, k, v, rpb = make_inputs((1, 2, 2, 3, 5, 16, 3, 3))
    expected = run((q, k, v, rpb))
    # As a linear layer for all three makes them: [B, T, H, W, 3, N, D].
    views = tuple(torch.stack([q, k, v]).permute(1, 3, 4, 5, 0, 2, 6).contiguous().permute(4, 0, 5, 1, 2, 3, 6))
    results = run((*views, rpb))
    assert all(torch.equal(x, y) for x, y in zip(results, expected, strict=True))
    for x in results[:2]:  # heads side by side, as the layers that follow want them
        assert x.permute(0, 2, 3, 4, 1, 5).is_contiguous()


@needs_library
def test_affinity_is_kept_only_where_it_is_wanted() -> None:
    inputs = make_inputs((1, 1, 3, 4, 5, 16, 3, 3))
    context, affinity = cpp.cost_volume_cpp(*inputs, with_affinity=False)
    assert affinity.numel() == 0
    assert torch.equal(context, cost_volume_attention(*inputs, backend="cpp", return_affinity=True)[0])
    leaves = [x.requires_grad_() for x in inputs]
    cost_volume_attention(*leaves, backend="cpp").sum().backward()
    exact = [x.detach().double().requires_grad_() for x in inputs]
    cost_volume_attention(*exact, backend="reference").sum().backward()
    for x, y in zip(leaves, exact, strict=True):
        torch.testing.assert_close(x.grad.double(), y.grad, rtol=1e-5, atol=1e-5)


@needs_library
def test_frozen_inputs_get_no_gradient() -> None:
    q, k, v, rpb = make_inputs((1, 1, 2, 3, 3, 16, 3, 3))
    cost_volume_attention(q.requires_grad_(), k, v, rpb, backend="cpp").sum().backward()
    assert q.grad is not None
    assert k.grad is v.grad is rpb.grad is None


@needs_library
def test_operator_is_registered_as_pytorch_wants_it() -> None:
    inputs = [x.requires_grad_() for x in make_inputs((1, 1, 3, 2, 3, 8, 3, 3))]
    torch.library.opcheck(_cost_volume, (*inputs, True))


@needs_library
def test_compiles_as_one_graph_with_gradients() -> None:
    inputs = make_inputs((1, 1, 2, 3, 4, 16, 3, 3))

    def op(*x: Tensor) -> tuple[Tensor, Tensor]:
        return cost_volume_attention(*x, return_affinity=True)  # the automatic choice

    results = []
    for function in (op, torch.compile(op, backend="aot_eager", fullgraph=True)):
        leaves = [x.clone().requires_grad_() for x in inputs]
        context, affinity = function(*leaves)
        (context.square().sum() + affinity.square().sum()).backward()
        results.append([context, affinity, *(leaf.grad for leaf in leaves)])
    for x, y in zip(*results, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-6, atol=1e-6)


def test_exported_graphs_hold_no_operator_of_ours() -> None:
    class Op(torch.nn.Module):
        def forward(self, q: Tensor, k: Tensor, v: Tensor, rpb: Tensor) -> Tensor:
            return cost_volume_attention(q, k, v, rpb)

    inputs = make_inputs((1, 1, 2, 3, 3, 16, 3, 3))
    graph = torch.export.export(Op(), inputs).graph
    assert not [node for node in graph.nodes if "emim" in str(node.target)]


def in_a_new_process(tmp_path: Path, **environment: str) -> str:
    """What `explain_backend` says of a small CPU input where nothing was compiled yet."""
    code = (
        "import torch; from emim.ops import explain_backend; x = torch.zeros(1, 1, 2, 3, 3, 4);"
        "print(explain_backend(x, x, x, torch.zeros(1, 3, 3)))"
    )
    variables = {"PATH": "", "EMIM_CACHE": str(tmp_path / "cache"), **environment}
    result = subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    return result.stdout


def compiler(path: Path, script: str) -> str:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def test_without_a_compiler_dense_runs(tmp_path: Path) -> None:
    said = in_a_new_process(tmp_path)
    assert said.startswith("dense")
    assert "not cpp: no C++ compiler (looked for CXX and g++, clang++, c++)" in said


def test_a_compiler_that_fails_is_quoted(tmp_path: Path) -> None:
    broken = compiler(
        tmp_path / "c++", '[ "$1" = --version ] && exit 0; echo "x.cpp:1: error: no such thing" >&2; exit 1'
    )
    said = in_a_new_process(tmp_path, CXX=broken)
    assert said.startswith("dense")
    assert "cannot build it (x.cpp:1: error: no such thing)" in said
    assert not list((tmp_path / "cache").iterdir())


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    said = in_a_new_process(tmp_path, CXX=compiler(tmp_path / "c++", "exit 0"))
    assert said.startswith("dense")
    assert str(tmp_path / "cache") in said


@needs_library
def test_the_library_is_built_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(library.CACHE_VARIABLE, str(tmp_path))
    found = library._compiler()
    assert found is not None
    first = library._built(found)
    written = first.stat().st_mtime_ns
    assert library._built(found) == first
    assert first.stat().st_mtime_ns == written
    assert list(tmp_path.iterdir()) == [first]


@needs_library
def test_explain_names_it_on_cpus() -> None:
    x = torch.zeros(1, 1, 2, 3, 3, 4)
    assert explain_backend(x, x, x, torch.zeros(1, 3, 3)).backend == "cpp"
