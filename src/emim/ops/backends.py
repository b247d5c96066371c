"""The backends of cost-volume attention, and which of them runs.

A backend takes whole clips (unscaled queries, every frame) and returns context and raw affinity. The portable ones,
"dense" and "reference", are functions of frame pairs; forming pairs and repeating the last frame is done here for
both. "fused" does all of it in its kernels, but only for some tensors, and says why not for others.

Shape suffixes as in `emim.ops.cost_volume`.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from types import MappingProxyType
from typing import Final, Protocol

import torch
from torch import Tensor

from emim.errors import OpInputError, UnknownNameError
from emim.naming import nearest
from emim.ops.dense import cost_volume_dense
from emim.ops.reference import cost_volume_reference

DEFAULT_BACKEND: Final = "dense"

ENVIRONMENT_VARIABLE: Final = "EMIM_OPS_BACKEND"
"""Names the backend of calls that name none. Where it cannot run, the default does, with one warning."""


class Backend(Protocol):
    """One way to compute cost-volume attention."""

    def run(
        self, q_BNTHWD: Tensor, k_BNTHWD: Tensor, v_BNTHWD: Tensor, rpb_NIJ: Tensor, *, with_affinity: bool
    ) -> tuple[Tensor, Tensor]:
        """Context and raw affinity; the affinity may be anything if it is not asked for."""
        ...

    def why_not(self, q_BNTHWD: Tensor, rpb_NIJ: Tensor) -> str | None:
        """Why it cannot take such tensors, or None if it can."""
        ...


@dataclass(frozen=True)
class OfPairs:
    """A portable backend, from a function of frame pairs that are formed and scaled."""

    function: Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]

    def run(
        self, q_BNTHWD: Tensor, k_BNTHWD: Tensor, v_BNTHWD: Tensor, rpb_NIJ: Tensor, *, with_affinity: bool
    ) -> tuple[Tensor, Tensor]:
        compute_dtype = torch.float64 if q_BNTHWD.dtype == torch.float64 else torch.float32
        T, D = q_BNTHWD.shape[2], q_BNTHWD.shape[5]
        first, second = (slice(0, -1), slice(1, None)) if T > 1 else (slice(None), slice(None))
        context, affinity = self.function(
            q_BNTHWD[:, :, first].to(compute_dtype) * D**-0.5,
            k_BNTHWD[:, :, second].to(compute_dtype),
            v_BNTHWD[:, :, second].to(compute_dtype),
            rpb_NIJ.to(compute_dtype),
        )
        if T > 1:
            context = _repeat_last_frame(context)
            affinity = _repeat_last_frame(affinity) if with_affinity else affinity
        return context.to(q_BNTHWD.dtype), affinity

    def why_not(self, q_BNTHWD: Tensor, rpb_NIJ: Tensor) -> str | None:
        del q_BNTHWD, rpb_NIJ
        return None


class Fused:
    """The Triton kernels of `emim.ops.fused`, on a GPU or in Triton's interpreter."""

    _DTYPES: Final = (torch.float32, torch.float16, torch.bfloat16)
    _WIDEST_HEAD: Final = 128
    _WIDEST_WINDOW: Final = 15
    _OLDEST_GPU: Final = (8, 0)

    def run(
        self, q_BNTHWD: Tensor, k_BNTHWD: Tensor, v_BNTHWD: Tensor, rpb_NIJ: Tensor, *, with_affinity: bool
    ) -> tuple[Tensor, Tensor]:
        return fused.cost_volume_fused(q_BNTHWD, k_BNTHWD, v_BNTHWD, rpb_NIJ, with_affinity=with_affinity)

    def why_not(self, q_BNTHWD: Tensor, rpb_NIJ: Tensor) -> str | None:
        if not _TRITON:
            return "Triton is not installed (pip install 'emim[gpu]')"
        if fused.TOO_OLD is not None:
            return fused.TOO_OLD
        if not fused.INTERPRETED:
            if not q_BNTHWD.is_cuda or torch.version.cuda is None:
                return f"it needs an NVIDIA GPU, and the tensors are on {q_BNTHWD.device}"
            if torch.cuda.get_device_capability(q_BNTHWD.device) < self._OLDEST_GPU:
                return "the GPU is older than compute capability {}.{}".format(*self._OLDEST_GPU)
        if q_BNTHWD.dtype not in self._DTYPES:
            return f"it takes float32, float16 and bfloat16, not {q_BNTHWD.dtype}"
        if q_BNTHWD.shape[5] > self._WIDEST_HEAD:
            return f"the head width {q_BNTHWD.shape[5]} is above {self._WIDEST_HEAD}"
        I, J = rpb_NIJ.shape[1:]
        if max(I, J) > self._WIDEST_WINDOW:
            return f"the window {I} x {J} is above {self._WIDEST_WINDOW}"
        return None


_TRITON: Final = find_spec("triton") is not None
if _TRITON:
    # Not on first use: operators cannot be registered while torch.compile looks on.
    from emim.ops import fused

BACKENDS: Final[Mapping[str, Backend]] = MappingProxyType(
    {"reference": OfPairs(cost_volume_reference), "dense": OfPairs(cost_volume_dense), "fused": Fused()}
)
"""Backends by name."""


@dataclass(frozen=True)
class Choice:
    """The backend that runs, and why others do not.

    Attributes:
        backend: its name.
        refused: reasons by backend name.
    """

    backend: str
    refused: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return "; ".join([self.backend, *(f"not {name}: {reason}" for name, reason in self.refused.items())])


def choose(q_BNTHWD: Tensor, rpb_NIJ: Tensor, backend: str | None = None) -> Choice:
    """Which backend runs for such tensors.

    A name given in the call is binding. One from the environment variable EMIM_OPS_BACKEND is a wish: where
    that backend cannot run the default does. "auto" is the fused backend wherever it can run.

    Raises:
        UnknownNameError: no such backend.
        OpInputError: the backend named in the call cannot take such tensors.
    """
    wished = os.environ.get(ENVIRONMENT_VARIABLE) or DEFAULT_BACKEND if backend is None else backend
    name = "fused" if wished == "auto" else wished
    if name not in BACKENDS:
        whence = f" (from {ENVIRONMENT_VARIABLE})" if backend is None else ""
        suggestion = nearest(name, [*BACKENDS, "auto"])
        raise UnknownNameError(f"no backend {name!r}{whence} of cost_volume_attention; {suggestion}")
    reason = BACKENDS[name].why_not(q_BNTHWD, rpb_NIJ)
    if reason is None:
        return Choice(name)
    if backend is not None and wished != "auto":
        raise OpInputError(f"backend {name!r} cannot run: {reason}")
    if wished != "auto":
        _warn_once(f"{ENVIRONMENT_VARIABLE}={wished}: {reason}; using {DEFAULT_BACKEND!r}")
    return Choice(DEFAULT_BACKEND, {name: reason})


def _repeat_last_frame(x_BNTHWC: Tensor) -> Tensor:
    return torch.cat([x_BNTHWC, x_BNTHWC[:, :, -1:]], dim=2)


_warned: set[str] = set()


def _warn_once(message: str) -> None:
    if message not in _warned and not torch.compiler.is_compiling():
        _warned.add(message)
        warnings.warn(message, stacklevel=2)
