from __future__ import annotations

import torch

from emim.motion.field import picture_change


def test_only_what_differs_more_than_noise_counts_with_its_neighbours() -> None:
    frames = torch.full((1, 3, 3, 64, 64), 100, dtype=torch.uint8)
    frames[:, 1:] += (torch.rand(1, 2, 3, 64, 64) > 0.5).to(torch.uint8)  # noise of one step
    frames[:, 1, :, 32:40, 16:24] = 200  # something in one of 8 x 8 places, in the middle frame
    change = picture_change(frames, (8, 8))
    assert change.shape == (1, 3, 8, 8)
    there = torch.zeros(8, 8)
    there[3:6, 1:4] = 1
    for t in range(3):  # it comes, it goes; the last frame repeats
        assert torch.equal(change[0, t], there)


def test_a_single_frame_does_not_change() -> None:
    assert not picture_change(torch.randint(0, 255, (2, 1, 3, 16, 16)), (2, 2)).any()


def test_change_fades_in() -> None:
    frames = torch.zeros(1, 2, 3, 8, 8)
    frames[:, 1] = 4.0
    assert picture_change(frames, (1, 1)).flatten().tolist() == [0.5, 0.5]
