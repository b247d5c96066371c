"""A trial of a backend on the device where it is to run, before it is chosen without being asked for.

Shape suffixes as in `emim.ops.cost_volume`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias

import torch
from torch import Tensor

Run: TypeAlias = Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""From q, k, v and rpb to context and affinity."""

_SHAPE_BNTHWD: Final = (1, 2, 3, 9, 11, 32)
_WINDOW: Final = (5, 7)
_TOLERANCES: Final = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}
_NAMES: Final = ("context", "affinity", "gradient of q", "gradient of k", "gradient of v", "gradient of rpb")


def disagreement(backend: Run, reference: Run, device: torch.device, dtype: torch.dtype) -> str | None:
    """Why a backend's results cannot be relied on, or None if they agree with the reference's.

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
