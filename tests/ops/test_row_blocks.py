"""Functions of rows, block by block: the same values, and whole where blocks would do harm."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from emim.ops.common import in_row_blocks


class Counted:
    def __init__(self) -> None:
        self.rows: list[int] = []

    def __call__(self, x: Tensor) -> Tensor:
        self.rows.append(x.shape[:-1].numel())
        return torch.cat([x.square(), -x], dim=-1)


@pytest.mark.parametrize("shape", [(5000, 3), (2, 7, 500, 3), (2048, 3), (1, 3, 1025, 3)])
@pytest.mark.parametrize("turned", [False, True])
def test_values_are_those_of_the_whole(shape: tuple[int, ...], turned: bool) -> None:
    x = torch.randn(shape)
    if turned:
        x = x.transpose(0, -2)
    function = Counted()
    with torch.no_grad():
        result = in_row_blocks(function, x)
    assert torch.equal(result, Counted()(x))
    assert len(function.rows) > 1
    assert sum(function.rows) == x.shape[:-1].numel()
    assert max(function.rows) <= 1024


def test_few_rows_and_rows_with_gradients_stay_together() -> None:
    for x, grad in ((torch.randn(2047, 3), False), (torch.randn(5000, 3), True)):
        function = Counted()
        with torch.set_grad_enabled(grad):
            in_row_blocks(function, x)
        assert function.rows == [len(x)]


def test_compiled_graphs_hold_no_blocks() -> None:
    x = torch.randn(5000, 3)
    compiled = torch.compile(lambda x: in_row_blocks(torch.square, x), backend="eager", fullgraph=True)
    with torch.no_grad():
        assert torch.equal(compiled(x), x.square())


def test_the_dtype_is_the_function_s() -> None:
    with torch.no_grad():
        assert in_row_blocks(lambda x: x.bfloat16(), torch.randn(5000, 3)).dtype == torch.bfloat16
