from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from emim.errors import ConfigError, VideoNotFoundError
from emim.inference.recogniser import Recogniser
from emim.models import create_model
from emim.motion.explanation import explain, hires_cam


@pytest.fixture(scope="module")
def recogniser() -> Recogniser:
    return Recogniser.load(device="cpu")


@pytest.fixture(scope="module")
def clip(generated: Path) -> Path:
    return next((generated / "test" / "left").iterdir())


def test_the_map_adds_up_to_what_sets_the_class_apart() -> None:
    torch.manual_seed(0)
    model = create_model("uniformer_tiny_emim", 5).eval()
    with torch.no_grad():
        model.head.weight.normal_()
    clip = torch.randn(1, 3, 4, 32, 32)
    with torch.no_grad():
        logit_K = model(clip)[0] - model.head.bias
    for index in range(5):
        cam = hires_cam(model, clip, index)
        assert cam.shape == (1, 4, 1, 1) or cam.shape[:2] == (1, 4)
        torch.testing.assert_close(cam.sum(), logit_K[index] - logit_K.mean(), rtol=1e-4, atol=1e-4)


def test_a_place_without_features_has_no_part_in_it() -> None:
    torch.manual_seed(0)
    model = create_model("uniformer_tiny_emim", 3).eval()
    features = torch.randn(1, model.num_features, 4, 2, 2)
    features[:, :, 1, 0, 1] = 0
    model.forward_features = lambda clip: features  # type: ignore[method-assign]
    cam = hires_cam(model, torch.zeros(1, 3, 4, 32, 32), 1)
    assert cam[0, 1, 0, 1] == 0
    assert (cam == 0).sum() == 1


def test_the_map_leaves_the_network_as_it_was() -> None:
    model = create_model("uniformer_tiny_emim", 3).train()
    hires_cam(model, torch.randn(1, 3, 4, 32, 32), 0)
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())
    with pytest.raises(IndexError, match="class 3 is not one of the 3"):
        hires_cam(model, torch.randn(1, 3, 4, 32, 32), 3)


def test_the_explanation_is_of_the_prediction(recogniser: Recogniser, clip: Path) -> None:
    best = recogniser.predict(clip, topk=3)
    found = explain(recogniser, clip)
    assert found.label == best[0].label
    assert found.score == pytest.approx(best[0].score, abs=1e-5)
    assert [label for label, _ in found.runners_up] == [item.label for item in best[1:]]
    assert found.num_views == recogniser.preprocessing.num_views
    assert found.frame_share_T.sum() == pytest.approx(1.0)
    assert found.label in found.describe()
    size = recogniser.preprocessing.size
    assert found.frames_THWC.shape == (recogniser.preprocessing.num_frames, size, size, 3)


def test_another_class_can_be_explained(recogniser: Recogniser, clip: Path) -> None:
    found = explain(recogniser, clip, label="still")
    assert found.label == "still"
    assert found.runners_up[0][0] == recogniser.predict(clip, topk=1)[0].label
    with pytest.raises(ConfigError, match="no class 'stil'; did you mean 'still'"):
        explain(recogniser, clip, label="stil")


def test_the_picture_is_written_whole_or_not_at_all(recogniser: Recogniser, clip: Path, tmp_path: Path) -> None:
    found = explain(recogniser, clip)
    found.save(tmp_path / "new" / "out.png")
    with Image.open(tmp_path / "new" / "out.png") as picture:
        assert np.array_equal(np.asarray(picture), found.draw())
    with pytest.raises(ConfigError, match=r"out\.tiff: name the picture"):
        found.save(tmp_path / "out.tiff")
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot be written"):
        found.save(tmp_path / "file" / "out.png")
    with pytest.raises(VideoNotFoundError):
        explain(recogniser, tmp_path / "none.mp4")


def test_a_network_without_emim_is_explained_without_motion(clip: Path, recogniser: Recogniser) -> None:
    plain = Recogniser(create_model("uniformer_tiny", len(recogniser.classes)), recogniser.card, device="cpu")
    found = explain(plain, clip)
    assert found.displacement_T2hw is None
    assert found.draw().shape[0] < explain(recogniser, clip).draw().shape[0]
