"""The task that the peers of the operator are given, and the form of an adapter.

Shape suffixes: B batch, N heads, T frames, H and W token grid, D head width, I and J window height and width,
P = I * J displacements.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from emim.bench.settings import DTYPES
from emim.errors import ConfigError

LAYOUTS = ("contiguous", "projection")

Outputs = Mapping[str, Tensor]
"""Results by name, of "context" [B, N, T, H, W, D] and "affinity" [B, N, T, H, W, P] those that an operator has."""

Op = Callable[[Tensor, Tensor, Tensor, Tensor], Outputs]
"""An operator on unscaled q, k, v [B, N, T, H, W, D] and the bias [N, I, J]."""


@dataclass(frozen=True)
class OpProblem:
    """Sizes of the operator's inputs; the defaults are those of UniFormer-S's third stage at 16 x 224 x 224.

    Attributes:
        dtype: one of `DTYPES`.
        layout: "contiguous" tensors of their own, or views of one "projection", as the EMIM module has them.

    Raises:
        ConfigError: a size is below 1, the window is even, or there is no such number format or layout.
    """

    batch: int = 1
    heads: int = 5
    frames: int = 16
    height: int = 14
    width: int = 14
    head_width: int = 64
    window: int = 7
    dtype: str = "float32"
    layout: str = "contiguous"

    def __post_init__(self) -> None:
        sizes = {key: value for key, value in dataclasses.asdict(self).items() if isinstance(value, int)}
        for key, value in sizes.items():
            if value < 1:
                raise ConfigError(f"{key} must be at least 1, got {value}")
        if self.window % 2 == 0:
            raise ConfigError(f"the window must be odd, got {self.window}")
        if self.dtype not in DTYPES:
            raise ConfigError(f"no number format {self.dtype!r}; known: {', '.join(DTYPES)}")
        if self.layout not in LAYOUTS:
            raise ConfigError(f"no layout {self.layout!r}; known: {', '.join(LAYOUTS)}")

    @property
    def torch_dtype(self) -> torch.dtype:
        return DTYPES[self.dtype]

    def tiny(self) -> OpProblem:
        """The same task on two frames of one window, to run all code once."""
        side = min(self.window, self.height), min(self.window, self.width)
        return dataclasses.replace(self, batch=1, frames=min(2, self.frames), height=side[0], width=side[1])

    def inputs(self, device: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Random q, k, v and bias."""
        packed = torch.randn(
            self.batch, self.frames, self.height, self.width, 3, self.heads, self.head_width,
            dtype=self.torch_dtype, device=device,
        )  # fmt: skip
        views = packed.permute(4, 0, 5, 1, 2, 3, 6)
        q_BNTHWD, k_BNTHWD, v_BNTHWD = views if self.layout == "projection" else (x.contiguous() for x in views)
        return q_BNTHWD, k_BNTHWD, v_BNTHWD, torch.randn(self.heads, self.window, self.window, device=device)

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class OpPeer:
    """An adapter.

    Attributes:
        what: what it computes, and what of cost-volume attention it does not.
        make: builds the operator for a task.
        why_not: why it cannot run a task on a device, with or without the backward pass; None if it can.
        same_values: its outputs are claimed to be those of the definition, which is checked before it is timed.
        compiles: it compiles for the sizes that it is given.
    """

    what: str
    make: Callable[[OpProblem], Op]
    why_not: Callable[[OpProblem, str, bool], str | None] = lambda problem, device, backward: None
    same_values: bool = False
    compiles: bool = False


def next_frames(x_BNTHWD: Tensor) -> Tensor:
    """Of every frame the one after it; of the last one itself."""
    return torch.cat([x_BNTHWD[:, :, 1:], x_BNTHWD[:, :, -1:]], dim=2)


def query_frames(q_BNTHWD: Tensor) -> Tensor:
    """Every frame but the last, whose place the one before it takes (emim-spec step 2)."""
    T = q_BNTHWD.shape[2]
    return torch.cat([q_BNTHWD[:, :, :-1], q_BNTHWD[:, :, max(0, T - 2) : max(1, T - 1)]], dim=2)
