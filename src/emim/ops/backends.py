"""The backends of cost-volume attention, and which of them runs.

A backend takes whole clips (unscaled queries, every frame) and returns context and raw affinity. The portable ones,
"dense" and "reference", are functions of frame pairs; forming pairs and repeating the last frame is done here for
both. "cpp" (CPUs, compiled on first use) and "triton" (NVIDIA GPUs, Triton) do all of it themselves, but only on some
machines and for some tensors, and say why not for others.

Shape suffixes as in `emim.ops.cost_volume`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Final, Protocol, TypeAlias

import torch
from torch import Tensor

from emim.errors import OpInputError, UnknownNameError
from emim.ops import cpp
from emim.ops.common import (
    WHY_NO_TRITON,
    being_exported,
    constant_while_compiling,
    on_frame_pairs,
    under_function_transform,
    warn_once,
    without_autocast,
)
from emim.ops.dense import cost_volume_dense
from emim.ops.reference import cost_volume_reference
from emim.utils import nearest

__all__ = [
    "AUTO",
    "BACKENDS",
    "ENVIRONMENT_VARIABLE",
    "FALLBACK",
    "Backend",
    "Choice",
    "Cpp",
    "OfPairs",
    "Run",
    "Triton",
    "choose",
    "disagreement",
]

Run: TypeAlias = Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""From q, k, v and rpb to context and affinity."""

_SHAPE_BNTHWD: Final = (1, 2, 3, 9, 11, 32)
_WINDOW: Final = (5, 7)
_TOLERANCES: Final = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}
_NAMES: Final = ("context", "affinity", "gradient of q", "gradient of k", "gradient of v", "gradient of rpb")


def disagreement(backend: Run, reference: Run, device: torch.device, dtype: torch.dtype) -> str | None:
    """Return the reason why a backend's results cannot be relied on, or None if they agree with the reference.

    Args:
        backend: run on a small problem with all gradients.
        reference: run on the same in float32.
        device: where both run.
        dtype: of the backend's inputs.
    """
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(_SHAPE_BNTHWD, generator=generator).to(device, dtype) for _ in range(3)]
    inputs.append(torch.randn(_SHAPE_BNTHWD[1], *_WINDOW, generator=generator).to(device))
    try:
        ours = _with_gradients(backend, inputs)
    except Exception as error:  # whatever stops a compiler or a driver stops this backend and not the user's work
        lines = str(error).strip().splitlines()
        return f"a trial of it failed ({type(error).__name__}: {lines[0][:200] if lines else ''})"
    exact = _with_gradients(reference, [x.float() for x in inputs])
    for name, x, y in zip(_NAMES, ours, exact, strict=True):
        error_share = ((x.float() - y).abs().max() / y.abs().max()).item()
        if not error_share <= _TOLERANCES[dtype]:  # NaN is in no order
            return f"in a trial its {name} was off by {error_share:.1e} of the largest"
    return None


def _with_gradients(run: Run, inputs: list[Tensor]) -> list[Tensor]:
    with torch.inference_mode(False), torch.enable_grad():
        leaves = [x.clone().requires_grad_() for x in inputs]
        context, affinity = run(leaves[0], leaves[1], leaves[2], leaves[3])
        loss = context.float().square().sum() + affinity.square().sum()
        return [context.detach(), affinity.detach(), *torch.autograd.grad(loss, leaves)]


AUTO: Final = "auto"
"""The fastest backend that can run; the default."""

FALLBACK: Final = "dense"
"""Runs everywhere."""

ENVIRONMENT_VARIABLE: Final = "EMIM_OPS_BACKEND"
"""Names the backend of calls that name none. Where it cannot run, dense does, with one warning."""


class Backend(Protocol):
    """One way to compute cost-volume attention."""

    def run(
        self, q_BNTHWD: Tensor, k_BNTHWD: Tensor, v_BNTHWD: Tensor, rpb_NIJ: Tensor, *, with_affinity: bool
    ) -> tuple[Tensor, Tensor]:
        """Context and raw affinity; the affinity may be anything if it is not asked for."""
        ...

    def why_not_here(self, device: torch.device) -> str | None:
        """Return the reason why it cannot run on this machine and device, or None."""
        ...

    def why_not_these(self, q_BNTHWD: Tensor, rpb_NIJ: Tensor) -> str | None:
        """Return the reason why it cannot take such tensors, or None."""
        ...


@dataclass(frozen=True)
class OfPairs:
    """A portable backend, from a function of frame pairs that are formed and scaled."""

    function: Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]

    def run(
        self, q_BNTHWD: Tensor, k_BNTHWD: Tensor, v_BNTHWD: Tensor, rpb_NIJ: Tensor, *, with_affinity: bool
    ) -> tuple[Tensor, Tensor]:
        """Return context and affinity; see `cost_volume_attention`."""
        return on_frame_pairs(self.function, q_BNTHWD, k_BNTHWD, v_BNTHWD, rpb_NIJ, with_affinity=with_affinity)

    def why_not_here(self, device: torch.device) -> str | None:
        """Return the reason why this backend cannot run on the device, or None."""
        del device
        return None

    def why_not_these(self, q_BNTHWD: Tensor, rpb_NIJ: Tensor) -> str | None:
        """Return the reason why this backend cannot take such tensors, or None."""
        del q_BNTHWD, rpb_NIJ
        return None


class Cpp:
    """The compiled library of `emim.ops.cpp`, on CPUs."""

    def run(
        self, q_BNTHWD: Tensor, k_BNTHWD: Tensor, v_BNTHWD: Tensor, rpb_NIJ: Tensor, *, with_affinity: bool
    ) -> tuple[Tensor, Tensor]:
        """Return context and affinity; see `cost_volume_attention`."""
        return cpp.cost_volume_cpp(q_BNTHWD, k_BNTHWD, v_BNTHWD, rpb_NIJ, with_affinity=with_affinity)

    def why_not_here(self, device: torch.device) -> str | None:
        """Return the reason why this backend cannot run on the device, or None."""
        if device.type != "cpu":
            return f"it needs the CPU, and the tensors are on {device}"
        reason: str | None = cpp.why_no_library()
        return reason

    def why_not_these(self, q_BNTHWD: Tensor, rpb_NIJ: Tensor) -> str | None:
        """Return the reason why this backend cannot take such tensors, or None."""
        del rpb_NIJ
        if _transformed():
            return _NO_TRANSFORMS
        return None if cpp.takes(q_BNTHWD.dtype) else f"as compiled here it does not take {q_BNTHWD.dtype}"


class Triton:
    """The Triton kernels of `emim.ops.triton`, on a GPU or in Triton's interpreter."""

    _DTYPES: Final = (torch.float32, torch.float16, torch.bfloat16)
    _WIDEST_HEAD: Final = 128
    _WIDEST_WINDOW: Final = 15
    _OLDEST_GPU: Final = (8, 0)

    def run(
        self, q_BNTHWD: Tensor, k_BNTHWD: Tensor, v_BNTHWD: Tensor, rpb_NIJ: Tensor, *, with_affinity: bool
    ) -> tuple[Tensor, Tensor]:
        """Return context and affinity; see `cost_volume_attention`."""
        return triton.cost_volume_triton(q_BNTHWD, k_BNTHWD, v_BNTHWD, rpb_NIJ, with_affinity=with_affinity)

    def why_not_here(self, device: torch.device) -> str | None:
        """Return the reason why this backend cannot run on the device, or None."""
        if WHY_NO_TRITON is not None:
            return WHY_NO_TRITON
        if triton.TOO_OLD is not None:
            return triton.TOO_OLD
        if triton.INTERPRETED:
            return None
        if device.type != "cuda" or torch.version.cuda is None:
            return f"it needs an NVIDIA GPU, and the tensors are on {device}"
        if torch.cuda.get_device_capability(device) < self._OLDEST_GPU:
            return "the GPU is older than compute capability {}.{}".format(*self._OLDEST_GPU)
        return None

    def why_not_these(self, q_BNTHWD: Tensor, rpb_NIJ: Tensor) -> str | None:
        """Return the reason why this backend cannot take such tensors, or None."""
        if _transformed():
            return _NO_TRANSFORMS
        if q_BNTHWD.dtype not in self._DTYPES:
            return f"it takes float32, float16 and bfloat16, not {q_BNTHWD.dtype}"
        if q_BNTHWD.shape[5] > self._WIDEST_HEAD:
            return f"the head width {q_BNTHWD.shape[5]} is above {self._WIDEST_HEAD}"
        I, J = rpb_NIJ.shape[1:]
        if max(I, J) > self._WIDEST_WINDOW:
            return f"the window {I} x {J} is above {self._WIDEST_WINDOW}"
        return None


if WHY_NO_TRITON is None:
    # Not on first use: operators cannot be registered while torch.compile looks on.
    from emim.ops import triton

BACKENDS: Final[Mapping[str, Backend]] = MappingProxyType(
    {
        "reference": OfPairs(cost_volume_reference),
        "dense": OfPairs(cost_volume_dense),
        "cpp": Cpp(),
        "triton": Triton(),
    }
)
"""Backends by name."""

_RENAMED: Final = {"native": "cpp", "fused": "triton"}
"""Names of version 0.1."""

_FAST: Final = ("triton", "cpp")
"""Faster than dense wherever they can run, in the order in which they are asked."""


@dataclass(frozen=True)
class Choice:
    """The backend that runs, and why others do not.

    Attributes:
        backend: its name.
        refused: reasons by backend name, of those that were asked before it.
    """

    backend: str
    refused: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return "; ".join([self.backend, *(f"not {name}: {reason}" for name, reason in self.refused.items())])


def choose(q_BNTHWD: Tensor, rpb_NIJ: Tensor, backend: str | None = None) -> Choice:
    """Choose the backend for such tensors, by their device, dtype and shape.

    A name given in the call is binding. The environment variable EMIM_OPS_BACKEND is a preference; if that backend
    cannot run, `dense` is used. "auto", the default, is the fastest that can run, "triton" only after it agreed with
    the reference in a small trial on the device. While a graph is exported "auto" is `dense`, which consists of
    PyTorch's own operators.

    Raises:
        UnknownNameError: no such backend.
        OpInputError: the backend named in the call cannot take such tensors.
    """
    name = os.environ.get(ENVIRONMENT_VARIABLE) or AUTO if backend is None else backend
    if name in _RENAMED:
        warn_once(f"backend {name!r} is now {_RENAMED[name]!r}; the old name works until version 0.3", FutureWarning)
        name = _RENAMED[name]
    if name == AUTO:
        return _fastest(q_BNTHWD, rpb_NIJ)
    if name not in BACKENDS:
        whence = f" (from {ENVIRONMENT_VARIABLE})" if backend is None else ""
        suggestion = nearest(name, [*BACKENDS, AUTO])
        raise UnknownNameError(f"no backend {name!r}{whence} of cost_volume_attention; {suggestion}")
    reason = BACKENDS[name].why_not_here(q_BNTHWD.device) or BACKENDS[name].why_not_these(q_BNTHWD, rpb_NIJ)
    if reason is None:
        return Choice(name)
    if backend is not None:
        raise OpInputError(f"backend {name!r} cannot run: {reason}")
    warn_once(f"{ENVIRONMENT_VARIABLE}={name}: {reason}; using {FALLBACK!r}")
    return Choice(FALLBACK, {name: reason})


def _fastest(q_BNTHWD: Tensor, rpb_NIJ: Tensor) -> Choice:
    if being_exported():
        return Choice(FALLBACK, dict.fromkeys(_FAST, "a graph is being exported"))
    refused: dict[str, str] = {}
    for name in _FAST:
        if name == "triton" and WHY_NO_TRITON is None and triton.INTERPRETED:
            refused[name] = "Triton runs in its interpreter, which is for tests"
            continue
        reason = BACKENDS[name].why_not_here(q_BNTHWD.device)
        if reason is None:
            reason = BACKENDS[name].why_not_these(q_BNTHWD, rpb_NIJ)
            if reason is None and name == "triton":
                reason = _why_not_trusted(name, str(q_BNTHWD.device), q_BNTHWD.dtype)
            if reason is None:
                return Choice(name, refused)
            warn_once(f"cost_volume_attention: {reason} (backend {name!r}); using slower ones")
        refused[name] = reason
    return Choice(FALLBACK, refused)


@constant_while_compiling
def _why_not_trusted(name: str, device: str, dtype: torch.dtype) -> str | None:
    """Return the fault that a trial on this device finds, or None. One trial a process: no test has seen every GPU."""
    key = name, device, dtype
    if key not in _trials:
        with without_autocast(torch.device(device)):
            _trials[key] = disagreement(_run_of(name), _run_of("reference"), torch.device(device), dtype)
    return _trials[key]


_trials: dict[tuple[str, str, torch.dtype], str | None] = {}


def _run_of(name: str) -> Run:
    return partial(BACKENDS[name].run, with_affinity=True)


_NO_TRANSFORMS: Final = "the transforms of torch.func need 'dense' or 'reference'"


def _transformed() -> bool:
    return not torch.compiler.is_compiling() and under_function_transform()
