from __future__ import annotations

import numpy as np
import pytest
import torch

from emim.datasets.synthetic import ClipOptions, render_clip, true_displacement
from emim.motion.field import end_point_error

OPTIONS = ClipOptions(num_frames=6, height=64, width=80)


@pytest.mark.parametrize("label", ["left", "down", "towards", "away", "clockwise", "still", "parting"])
@pytest.mark.parametrize("seed", [1, 2])
def test_it_carries_each_frame_onto_the_next(label: str, seed: int) -> None:
    clip = render_clip(label, seed=seed, options=OPTIONS)
    displacement_T2HW = true_displacement(clip)
    assert displacement_T2HW.shape == (5, 2, 64, 80)
    frames = torch.from_numpy(clip.frames_THWC).permute(0, 3, 1, 2).float()
    y, x = torch.meshgrid(torch.arange(64) + 0.5, torch.arange(80) + 0.5, indexing="ij")
    there = torch.stack((x, y)) + torch.from_numpy(displacement_T2HW).float()
    grid = torch.stack((there[:, 0] / 80, there[:, 1] / 64), dim=-1) * 2 - 1
    carried = torch.nn.functional.grid_sample(frames[1:], grid, align_corners=False, padding_mode="border")
    # Median, because what is covered in the next frame, edges and noise are not carried.
    apart = (carried - frames[:-1]).abs().mean(1).median()
    assert apart < 10


def test_objects_lie_where_their_tracks_say() -> None:
    clip = render_clip("right", seed=5, options=OPTIONS)
    for k in range(clip.tracks.radius_TO.shape[1]):
        y, x = np.nonzero(clip.objects_THW[3] == k + 1)
        centre = clip.tracks.centres_TO2[3, k]
        radius = clip.tracks.radius_TO[3, k]
        assert np.hypot(x + 0.5 - centre[0], y + 0.5 - centre[1]).max() < 1.6 * radius


def test_end_point_error_is_the_mean_distance() -> None:
    truth = np.zeros((2, 4, 6))
    estimate = np.stack([np.full((2, 3), 3.0), np.full((2, 3), 4.0)])
    assert end_point_error(estimate, truth, np.ones((4, 6), bool)) == pytest.approx(5.0)
    assert np.isnan(end_point_error(estimate, truth, np.zeros((4, 6), bool)))
