"""Which backend runs, and what is said when one cannot."""

from __future__ import annotations

import warnings
from functools import partial

import pytest
import torch
from torch import Tensor

from emim import ops
from emim.errors import OpInputError, UnknownNameError
from emim.ops import backends, common, cost_volume_attention, explain_backend
from emim.ops.backends import Run, disagreement


@pytest.fixture(autouse=True)
def no_wish(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(backends.ENVIRONMENT_VARIABLE, raising=False)
    monkeypatch.setattr(common, "_warned", set())


def inputs(dtype: torch.dtype = torch.float64, D: int = 4, I: int = 3) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x = torch.randn(1, 1, 2, 3, 3, D, dtype=dtype)
    return x, x, x, torch.randn(1, I, I)


@pytest.fixture
def nothing_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without Triton and without a compiler."""
    monkeypatch.setattr(backends, "WHY_NO_TRITON", "Triton is not installed")
    monkeypatch.setattr(backends.cpp, "why_no_library", lambda: "no compiler")


def test_a_named_backend_is_explained_without_more_ado() -> None:
    assert str(explain_backend(*inputs(), backend="dense")) == "dense"
    assert explain_backend(*inputs(), backend="reference").backend == "reference"


@pytest.mark.usefixtures("nothing_fast")
def test_without_anything_faster_dense_runs_and_says_why_without_a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        choice = explain_backend(*inputs(torch.float32))
    assert choice.backend == "dense"
    assert choice.refused["cpp"] == "no compiler"
    assert str(choice).startswith("dense; not triton: Triton is not installed")


def test_on_other_devices_dense_runs() -> None:
    choice = explain_backend(*(x.to("meta") for x in inputs(torch.float32)))
    assert choice.backend == "dense"
    assert choice.refused["cpp"] == "it needs the CPU, and the tensors are on meta"


def test_inputs_that_no_fast_backend_takes_are_warned_of_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends.cpp, "why_no_library", lambda: None)
    monkeypatch.setattr(backends.cpp, "takes", lambda dtype: False)
    with pytest.warns(UserWarning, match=r"does not take torch.float32 \(backend 'cpp'\); using"):
        assert explain_backend(*inputs(torch.float32)).backend == "dense"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert explain_backend(*inputs(torch.float32)).backend == "dense"


def test_the_interpreter_is_never_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton", reason="Triton is not installed (pip install 'emim[gpu]')")
    monkeypatch.setattr(backends.triton, "INTERPRETED", True)
    assert "for tests" in explain_backend(*inputs(torch.float32)).refused["triton"]


def test_a_backend_named_in_the_call_runs_or_says_why_not() -> None:
    with pytest.raises(OpInputError, match="backend 'triton' cannot run: "):
        cost_volume_attention(*inputs(), backend="triton")


def test_the_environment_names_the_backend_of_calls_that_name_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(backends.ENVIRONMENT_VARIABLE, "reference")
    assert explain_backend(*inputs()).backend == "reference"
    assert explain_backend(*inputs(), backend="dense").backend == "dense"


def test_a_wish_that_cannot_be_met_is_warned_of_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(backends.ENVIRONMENT_VARIABLE, "triton")
    with pytest.warns(UserWarning, match=r"EMIM_OPS_BACKEND=triton: .*; using 'dense'"):
        wished = cost_volume_attention(*(given := inputs()))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cost_volume_attention(*given)
    assert torch.equal(wished, cost_volume_attention(*given, backend="dense"))


def test_a_mistyped_wish_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(backends.ENVIRONMENT_VARIABLE, "tritn")
    with pytest.raises(UnknownNameError, match=r"no backend 'tritn' \(from EMIM_OPS_BACKEND\).*did you mean 'triton'"):
        explain_backend(*inputs())


def run_of(name: str) -> Run:
    return partial(backends.BACKENDS[name].run, with_affinity=True)


def off_by_a_little(*args: Tensor) -> tuple[Tensor, Tensor]:
    context, affinity = run_of("dense")(*args)
    return context * 1.01, affinity


def no_number(*args: Tensor) -> tuple[Tensor, Tensor]:
    context, affinity = run_of("dense")(*args)
    return context, affinity * float("nan")


def failing(*args: Tensor) -> tuple[Tensor, Tensor]:
    raise RuntimeError("no such instruction\nand more")


@pytest.mark.parametrize(
    ("run", "complaint"),
    [
        (run_of("dense"), None),
        (off_by_a_little, "in a trial its context was off by 1.0e-02 of the largest"),
        (no_number, "in a trial its affinity was off by nan"),
        (failing, "a trial of it failed (RuntimeError: no such instruction)"),
    ],
)
def test_a_trial_finds_what_is_wrong(run: Run, complaint: str | None) -> None:
    found = disagreement(run, run_of("reference"), torch.device("cpu"), torch.float32)
    assert found is None if complaint is None else complaint in str(found)


def test_kernels_that_are_wrong_are_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton", reason="Triton is not installed (pip install 'emim[gpu]')")
    monkeypatch.setattr(backends.triton, "INTERPRETED", False)
    monkeypatch.setattr(backends.Triton, "why_not_here", lambda self, device: None)
    monkeypatch.setattr(backends.Triton, "run", lambda self, *args, with_affinity: no_number(*args))
    monkeypatch.setattr(backends, "_trials", {})
    with torch.inference_mode(), pytest.warns(UserWarning, match="in a trial"):
        choice = explain_backend(*inputs(torch.float32))
    assert choice.backend != "triton"
    assert "off by nan" in choice.refused["triton"]


@pytest.mark.skipif(backends.WHY_NO_TRITON is not None, reason=str(backends.WHY_NO_TRITON))
def test_triton_names_what_it_cannot_take(monkeypatch: pytest.MonkeyPatch) -> None:
    def complaint(given: tuple[Tensor, ...]) -> str:
        with pytest.raises(OpInputError, match="backend 'triton' cannot run: ") as caught:
            explain_backend(*given, backend="triton")
        return str(caught.value)

    monkeypatch.setattr(backends.triton, "TOO_OLD", "Triton 3.2.0 is older than 3.3")
    assert "Triton 3.2.0 is older" in complaint(inputs(torch.float32))
    monkeypatch.setattr(backends.triton, "TOO_OLD", None)
    monkeypatch.setattr(backends.triton, "INTERPRETED", False)
    assert "NVIDIA GPU, and the tensors are on cpu" in complaint(inputs(torch.float32))
    monkeypatch.setattr(backends.triton, "INTERPRETED", True)
    assert "not torch.float64" in complaint(inputs())
    assert "the head width 130 is above 128" in complaint(inputs(torch.float32, D=130))
    assert "the window 17 x 17 is above 15" in complaint(inputs(torch.float32, I=17))
    assert str(explain_backend(*inputs(torch.bfloat16), backend="triton")) == "triton"


@pytest.mark.parametrize(("old", "new"), [("native", "cpp"), ("fused", "triton")])
def test_old_backend_names_work_with_a_warning(old: str, new: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends.Triton, "why_not_here", lambda self, device: None)
    monkeypatch.setattr(backends.Triton, "why_not_these", lambda self, q, rpb: None)
    monkeypatch.setattr(backends.Cpp, "why_not_here", lambda self, device: None)
    with pytest.warns(FutureWarning, match=f"backend '{old}' is now '{new}'"):
        assert explain_backend(*inputs(torch.float32), backend=old).backend == new


def test_explain_is_now_explain_backend() -> None:
    with pytest.warns(FutureWarning, match="is now emim.ops.explain_backend"):
        assert ops.explain is explain_backend
