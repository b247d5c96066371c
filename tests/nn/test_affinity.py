from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from emim.models import create_model
from emim.nn import EMIM
from emim.nn.affinity import affinity_of, emim_blocks, soft_displacement, window_steps


def test_the_blocks_of_a_network_are_found_in_order() -> None:
    assert list(emim_blocks(create_model("uniformer_tiny_emim", 3))) == ["blocks3.0.attn", "blocks4.0.attn"]
    assert emim_blocks(create_model("uniformer_tiny", 3)) == {}


def test_affinity_of_is_what_the_block_computes_and_has_gradients() -> None:
    emim = EMIM(16, 2, 3)
    x_BLC = torch.randn(2, 4 * 5 * 6, 16)
    grid = (4, 5, 6)

    class Network(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.emim = emim

        def forward(self, x_BLC: torch.Tensor) -> torch.Tensor:
            self.emim(x_BLC, grid)
            raise AssertionError("the pass goes on after the last block asked for")

    affinity_BNTHWP = affinity_of(Network(), x_BLC, {"emim": emim})["emim"]
    assert affinity_BNTHWP.shape == (2, 2, *grid, 9)
    q_BTHWND, k_BTHWND = (part.reshape(2, *grid, 2, 8) for part in emim.qkv(x_BLC).chunk(3, dim=-1)[:2])
    # Entry (dy, dx) = (0, 1) of a token in the middle of the first frame.
    expected_N = (q_BTHWND[1, 0, 2, 3] * 8**-0.5 * k_BTHWND[1, 1, 2, 4]).sum(-1) + emim.rpb[:, 1, 2]
    torch.testing.assert_close(affinity_BNTHWP[1, :, 0, 2, 3, 5], expected_N)
    affinity_BNTHWP.sum().backward()
    assert emim.qkv.weight.grad is not None
    assert emim.affinity._forward_hooks == {}


def test_a_network_that_runs_its_clips_one_by_one_gives_the_affinity_of_all() -> None:
    torch.manual_seed(0)
    model = create_model("uniformer_tiny_emim", 3).eval()
    clip = torch.randn(2, 3, 8, 208, 208)  # large enough to be run apart
    blocks = emim_blocks(model)
    with torch.inference_mode():
        together = affinity_of(model, clip, blocks)
        apart = affinity_of(model, clip[1:], blocks)
    for name in blocks:
        assert len(together[name]) == 2
        torch.testing.assert_close(together[name][1:], apart[name], rtol=1e-4, atol=1e-4)


@settings(max_examples=30, deadline=None)
@given(
    window=st.tuples(st.sampled_from([1, 3, 5, 7]), st.sampled_from([1, 3, 5])),
    grid=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    data=st.data(),
)
def test_a_single_peak_is_its_displacement_whatever_the_bias(
    window: tuple[int, int], grid: tuple[int, int], data: st.DataObject
) -> None:
    (I, J), (H, W) = window, grid
    dy = data.draw(st.integers(-min(I // 2, H - 1), min(I // 2, H - 1)))
    dx = data.draw(st.integers(-min(J // 2, W - 1), min(J // 2, W - 1)))
    rpb_NIJ = torch.randn(2, I, J) * 5
    affinity = torch.zeros(1, 2, 2, H, W, I * J)
    affinity[..., (dy + I // 2) * J + dx + J // 2] = 1000.0
    affinity += rpb_NIJ.flatten(1)[:, None, None, None]
    displacement, weight = soft_displacement(affinity, rpb_NIJ)
    torch.testing.assert_close(weight.sum(-1), torch.ones(1, 2, 2, H, W))
    y, x = max(0, -dy), max(0, -dx)  # a token from which this displacement stays within the frame
    torch.testing.assert_close(displacement[:, :, :, y, x], torch.tensor([dx, dy]).float().expand(1, 2, 2, 2))


def test_displacements_out_of_the_frame_have_no_weight() -> None:
    _, weight = soft_displacement(torch.zeros(1, 1, 1, 4, 6, 9), torch.zeros(1, 3, 3))
    inside_HWP, step_P2 = window_steps((4, 6), (3, 3), torch.device("cpu"))
    assert step_P2.tolist()[:4] == [[-1, -1], [0, -1], [1, -1], [-1, 0]]
    assert inside_HWP[0, 0].tolist() == [False, False, False, False, True, True, False, True, True]
    assert torch.equal(weight[0, 0, 0] > 0, inside_HWP)
    assert weight[0, 0, 0, 0, 0, 4] == pytest.approx(1 / 4)
