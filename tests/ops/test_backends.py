"""Which backend runs, and what is said when one cannot."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor

from emim.errors import OpInputError, UnknownNameError
from emim.ops import backends, cost_volume_attention, explain


@pytest.fixture(autouse=True)
def no_wish(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(backends.ENVIRONMENT_VARIABLE, raising=False)
    monkeypatch.setattr(backends, "_warned", set())


def inputs(dtype: torch.dtype = torch.float64, D: int = 4, I: int = 3) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x = torch.randn(1, 1, 2, 3, 3, D, dtype=dtype)
    return x, x, x, torch.randn(1, I, I)


def test_dense_runs_unless_another_is_named() -> None:
    assert explain(*inputs()).backend == "dense"
    assert explain(*inputs(torch.float32)).backend == "dense"
    assert str(explain(*inputs())) == "dense"
    assert explain(*inputs(), backend="reference").backend == "reference"


def test_auto_falls_back_and_says_why_without_a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        choice = explain(*inputs(), backend="auto")
    assert choice.backend == "dense"
    assert str(choice).startswith("dense; not fused: ")


def test_a_backend_named_in_the_call_runs_or_says_why_not() -> None:
    with pytest.raises(OpInputError, match="backend 'fused' cannot run: "):
        cost_volume_attention(*inputs(), backend="fused")


def test_the_environment_names_the_backend_of_calls_that_name_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(backends.ENVIRONMENT_VARIABLE, "reference")
    assert explain(*inputs()).backend == "reference"
    assert explain(*inputs(), backend="dense").backend == "dense"


def test_a_wish_that_cannot_be_met_is_warned_of_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(backends.ENVIRONMENT_VARIABLE, "fused")
    with pytest.warns(UserWarning, match=r"EMIM_OPS_BACKEND=fused: .*; using 'dense'"):
        wished = cost_volume_attention(*(given := inputs()))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cost_volume_attention(*given)
    assert torch.equal(wished, cost_volume_attention(*given, backend="dense"))


def test_a_mistyped_wish_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(backends.ENVIRONMENT_VARIABLE, "fuse")
    with pytest.raises(UnknownNameError, match=r"no backend 'fuse' \(from EMIM_OPS_BACKEND\).*did you mean 'fused'"):
        explain(*inputs())


def test_fused_says_why_without_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "_TRITON", False)
    assert explain(*inputs(torch.float32), backend="auto").refused == {
        "fused": "Triton is not installed (pip install 'emim[gpu]')"
    }


@pytest.mark.skipif(not backends._TRITON, reason="Triton is not installed")
def test_fused_names_what_it_cannot_take(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends.fused, "TOO_OLD", "Triton 3.2.0 is older than 3.3")
    assert "not fused: Triton 3.2.0 is older" in str(explain(*inputs(torch.float32), backend="auto"))
    monkeypatch.setattr(backends.fused, "TOO_OLD", None)
    monkeypatch.setattr(backends.fused, "INTERPRETED", False)
    assert "NVIDIA GPU, and the tensors are on cpu" in str(explain(*inputs(torch.float32), backend="auto"))
    monkeypatch.setattr(backends.fused, "INTERPRETED", True)
    assert "not torch.float64" in str(explain(*inputs(), backend="auto"))
    assert "the head width 130 is above 128" in str(explain(*inputs(torch.float32, D=130), backend="auto"))
    assert "the window 17 x 17 is above 15" in str(explain(*inputs(torch.float32, I=17), backend="auto"))
    assert str(explain(*inputs(torch.bfloat16), backend="auto")) == "fused"
