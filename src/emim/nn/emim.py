"""The EMIM module: appearance and motion features from one affinity matrix.

Shape suffixes: B clips, L = T * H * W tokens in (t, h, w) order, T frames, H and W rows and columns of tokens,
C channels, N heads, D channels of a head, I and J rows and columns of the window, P = I * J displacements.
"""

from __future__ import annotations

from typing import Literal, NoReturn

import torch
from torch import Tensor, nn

from emim.errors import ClipSizeError
from emim.nn.layers import check_heads, init_linear
from emim.ops import cost_volume_attention, explain_backend, motion_mlp, quick_gelu
from emim.ops.common import has_values

__all__ = ["EMIM", "MotionStart", "QuickGELU"]

MotionStart = Literal["appearance", "correlation"]


class QuickGELU(nn.Module):
    """z * sigmoid(1.702 z), any shape to the same."""

    def forward(self, z: Tensor) -> Tensor:
        """Return x * sigmoid(1.702 x)."""
        return quick_gelu(z)


class EMIM(nn.Module):
    """Explicit motion information mining: a replacement for self-attention over video tokens.

    The affinity of each token to a window around it in the next frame is used twice: after a softmax, as weights of the
    values (appearance features); raw, as the input of an MLP shared by all heads and positions (motion features). Their
    sum is projected (paper section 3.2; docs/method.md, steps 1 to 7). The last frame repeats the last pair of frames
    (step 2); a single frame is paired with itself.

    Args:
        dim: channels C, a multiple of `num_heads`.
        num_heads: heads N.
        window: window height and width in tokens, both odd; one number for a square.
        backend: backend of `emim.ops.cost_volume_attention`; None for its default. The motion MLP runs in the same
            backend where that has one.
        motion_start: initialisation. "appearance", as published: the last motion layer is zero, so that a converted
            pretrained network starts from its appearance path alone. "correlation", ours, for training from random
            weights: queries and keys start as one orthogonal projection, so that the affinity is a correlation
            of features from the first step on, and the last motion layer is not zero.

    Raises:
        ValueError: `dim` is not a multiple of `num_heads`, or a side of the window is even or below 1.

    Weights: `qkv`, `proj`, `motion_conv.0`, `motion_conv.2`, `rpb` [N, I, J]. A forward hook on the submodule
    `affinity` sees the raw affinity [B, N, T, H, W, P], bias included, of every pass.

    >>> emim = EMIM(dim=128, num_heads=2)
    >>> emim(torch.zeros(1, 8 * 14 * 14, 128), (8, 14, 14)).shape
    torch.Size([1, 1568, 128])
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        window: int | tuple[int, int] = 7,
        *,
        backend: str | None = None,
        motion_start: MotionStart = "appearance",
    ) -> None:
        super().__init__()
        check_heads(dim, num_heads)
        I, J = (window, window) if isinstance(window, int) else window
        if I < 1 or J < 1 or I % 2 == 0 or J % 2 == 0:
            raise ValueError(f"the window must be odd on both sides, got {I} x {J}")
        P, D = I * J, dim // num_heads
        self.num_heads = num_heads
        self.backend = backend
        self.motion_start = motion_start
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.rpb = nn.Parameter(torch.empty(num_heads, I, J))
        self.motion_conv = nn.Sequential(nn.Linear(P, 4 * P), QuickGELU(), nn.Linear(4 * P, D))
        self.affinity = nn.Identity()  # for hooks
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise the weights (docs/method.md, "Initialisation", and `motion_start`)."""
        self.apply(init_linear)
        if has_values(self.rpb):
            nn.init.trunc_normal_(self.rpb, std=0.02)
        first, last = self._motion_layers()
        nn.init.xavier_uniform_(first.weight)
        nn.init.zeros_(last.bias)
        if self.motion_start == "appearance":
            nn.init.zeros_(last.weight)
            return
        nn.init.xavier_uniform_(last.weight)
        dim = self.proj.in_features
        with torch.no_grad():
            shared = nn.init.orthogonal_(torch.empty_like(self.proj.weight))
            self.qkv.weight[:dim] = shared
            self.qkv.weight[dim : 2 * dim] = shared

    def forward(self, x_BLC: Tensor, grid: tuple[int, int, int]) -> Tensor:
        """Attend from each frame to the next.

        Args:
            x_BLC: tokens in (t, h, w) order.
            grid: (T, H, W) of the tokens, each at least 1.

        Returns:
            out_BLC.

        Raises:
            ClipSizeError: T * H * W is not the number of tokens.
        """
        B, L, C = x_BLC.shape
        T, H, W = grid
        if T * H * W != L:
            raise ClipSizeError(f"grid {T} x {H} x {W} has {T * H * W} tokens, but x has {L}")
        q_BNTHWD, k_BNTHWD, v_BNTHWD = (
            self.qkv(x_BLC).reshape(B, T, H, W, 3, self.num_heads, C // self.num_heads).permute(4, 0, 5, 1, 2, 3, 6)
        )
        backend = explain_backend(q_BNTHWD, k_BNTHWD, v_BNTHWD, self.rpb, backend=self.backend).backend
        appearance_BNTHWD, affinity_BNTHWP = cost_volume_attention(
            q_BNTHWD, k_BNTHWD, v_BNTHWD, self.rpb, backend=backend, return_affinity=True
        )
        affinity_BNTHWP = self.affinity(affinity_BNTHWP)
        first, _, last = self.motion_conv
        if isinstance(first, nn.Linear) and isinstance(last, nn.Linear):
            motion_BNTHWD = motion_mlp(
                affinity_BNTHWP, first.weight, first.bias, last.weight, last.bias, backend=backend
            )
        else:  # replaced, by quantised layers for instance
            motion_BNTHWD = self.motion_conv(affinity_BNTHWP)
        fused_BLC = (motion_BNTHWD + appearance_BNTHWD).permute(0, 2, 3, 4, 1, 5).reshape(B, L, C)
        out: Tensor = self.proj(fused_BLC)
        return out

    def __prepare_scriptable__(self) -> NoReturn:
        raise TypeError("EMIM cannot be compiled by torch.jit.script; use torch.export.export or torch.jit.trace")

    def _motion_layers(self) -> tuple[nn.Linear, nn.Linear]:
        first, _, last = self.motion_conv
        assert isinstance(first, nn.Linear)
        assert isinstance(last, nn.Linear)
        return first, last
