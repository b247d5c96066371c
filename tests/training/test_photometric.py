from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import QUICK
from emim.datasets.synthetic import ClipOptions, render_clip, true_displacement
from emim.errors import ConfigError
from emim.models import create_model
from emim.models.trained_model import load_model
from emim.training.photometric import PhotometricLoss, photometric_loss
from emim.training.recipe import load_recipe
from emim.training.run import train


def moving_clip() -> tuple[torch.Tensor, torch.Tensor]:
    """clip_1CTHW, and its true displacement in tokens of 8 pixels, displacement_1THW2."""
    drawn = render_clip("right", seed=3, options=ClipOptions(num_frames=5, height=64, width=64, clear_share=1.0))
    clip_1CTHW = torch.from_numpy(drawn.frames_THWC).permute(3, 0, 1, 2)[None].float() / 255
    truth_T2HW = torch.from_numpy(true_displacement(drawn)).float()
    tokens_T2hw = torch.nn.functional.avg_pool2d(truth_T2HW, 8) / 8
    tokens_THW2 = torch.cat((tokens_T2hw, tokens_T2hw[-1:])).permute(0, 2, 3, 1)
    return clip_1CTHW, tokens_THW2[None]


def test_the_true_displacement_matches_better_than_others() -> None:
    clip, truth = moving_clip()
    right = photometric_loss(clip, truth)
    assert right < photometric_loss(clip, torch.zeros_like(truth))
    assert right < photometric_loss(clip, -truth)
    assert right < photometric_loss(clip, truth[..., [1, 0]])


def test_frames_without_tokens_of_their_own_are_left_out() -> None:
    clip, truth = moving_clip()
    with_between = torch.stack((clip[:, :, :4], torch.randn_like(clip[:, :, :4])), dim=3).flatten(2, 3)
    torch.testing.assert_close(
        photometric_loss(with_between, truth[:, :4]), photometric_loss(clip[:, :, :4], truth[:, :4])
    )


def test_a_single_frame_has_nothing_to_match() -> None:
    displacement = torch.randn(1, 1, 4, 4, 2, requires_grad=True)
    loss = photometric_loss(torch.randn(1, 3, 1, 32, 32), displacement)
    loss.backward()
    assert loss == 0
    assert displacement.grad is not None


def test_a_step_along_its_gradient_matches_better() -> None:
    torch.manual_seed(0)
    model = create_model("uniformer_tiny_emim", 3)
    photometric = PhotometricLoss(model)
    clip = torch.cat([moving_clip()[0]] * 2)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(12):
        torch.manual_seed(1)  # one cut-out throughout
        loss = photometric(clip)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    # Only what comes before the affinity of the first block has a gradient.
    assert model.blocks3[0].attn.qkv.weight.grad is not None
    assert model.blocks3[0].attn.proj.weight.grad is None
    assert model.head.weight.grad is None


def test_a_network_without_emim_says_so() -> None:
    with pytest.raises(ConfigError, match=r"optim\.photometric needs an EMIM block, and this UniFormer has none"):
        PhotometricLoss(create_model("uniformer_tiny", 3))


def test_a_run_takes_the_weight_and_logs_the_loss(generated: Path, tmp_path: Path) -> None:
    folders = []
    for weight in (0.0, 5.0):
        config = load_recipe(
            None,
            [
                f"data.path={generated}",
                f"output={tmp_path}",
                f"name=w{weight:g}",
                f"optim.photometric={weight}",
                *QUICK,
            ],
        )
        folders.append(train(config, progress_bar=False).folder)
    without, with_loss = ((folder / "metrics.csv").read_text() for folder in folders)
    assert "train_photometric" in with_loss
    assert "train_photometric" not in without
    weights = [load_model(folder / "model.safetensors")[0].state_dict() for folder in folders]
    name = "blocks3.0.attn.qkv.weight"
    assert not np.allclose(weights[0][name], weights[1][name])


def test_sharded_training_cannot_have_it(generated: Path, tmp_path: Path) -> None:
    overrides = [f"data.path={generated}", f"output={tmp_path}", *QUICK]
    config = load_recipe(None, [*overrides, "optim.photometric=1", "trainer.strategy=fsdp"])
    with pytest.raises(ConfigError, match=r"optim\.photometric=1\.0 does not work with trainer\.strategy=fsdp"):
        train(config, progress_bar=False)
