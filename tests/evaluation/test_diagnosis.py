"""A diagnosis of networks on generated clips."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import emim.data.dataset
from emim.data.folder import load_clips
from emim.data.manifest import ClipList
from emim.data.preprocessing import test_views as views_of
from emim.data.video import open_video
from emim.evaluation.diagnosis import Diagnosis, diagnose
from emim.evaluation.diagnosis.ablations import shuffled_order
from emim.evaluation.diagnosis.diagnose import AblationResult
from emim.evaluation.diagnosis.statistics import Estimate
from emim.evaluation.outputs import score_clips
from emim.inference.recogniser import Recogniser
from emim.inference.scoring import ScoringOptions


@pytest.fixture
def recogniser(trained: Path) -> Recogniser:
    return Recogniser.load(trained / "model.safetensors", device="cpu")


@pytest.fixture
def clips(recogniser: Recogniser, generated: Path) -> ClipList:
    return load_clips(generated, split="test", classes=recogniser.classes)


def diagnosis_of(
    model: nn.Module, recogniser: Recogniser, clips: ClipList, *, seed: int = 0, **options: Any
) -> Diagnosis:
    of_model = Recogniser(model, recogniser.card, device="cpu")
    found = diagnose(of_model, clips, ScoringOptions(**{"workers": 0, **options}), seed=seed)
    assert found is not None
    return found


def result_of(diagnosis: Diagnosis, name: str) -> AblationResult:
    (found,) = (condition for condition in diagnosis.ablations if condition.name == name)
    return found


def predicted(diagnosis: Diagnosis, name: str) -> list[int]:
    return list(result_of(diagnosis, name).predicted)


def named(model: nn.Module, views: list[Tensor]) -> list[int]:
    """The best class of the views of each video, without any of what is tested here."""
    with torch.inference_mode():
        return [int(model(views_VCTHW).softmax(-1).mean(0).argmax()) for views_VCTHW in views]


def test_every_condition_is_what_it_says(recogniser: Recogniser, clips: ClipList) -> None:
    model = recogniser.model
    before = copy.deepcopy(model.state_dict())
    diagnosis = diagnosis_of(model, recogniser, clips, seed=3)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())

    plain = score_clips(recogniser, clips, ScoringOptions(workers=0))
    assert plain is not None
    assert predicted(diagnosis, "as_is") == plain.score_SK.argmax(1).tolist()

    views = []
    for entry in clips:
        with open_video(entry.path) as reader:
            views.append(views_of(reader, recogniser.preprocessing))
    frames = recogniser.preprocessing.num_frames
    frozen = [torch.stack([v[:, :, frames // 2]] * frames, 2) for v in views]
    shuffled = [v[:, :, shuffled_order(frames, number, 3)] for number, v in enumerate(views)]
    backwards = [v[:, :, list(range(frames))[::-1]] for v in views]
    assert predicted(diagnosis, "frozen") == named(model, frozen)
    assert predicted(diagnosis, "shuffled") == named(model, shuffled)
    assert predicted(diagnosis, "reversed") == named(model, backwards)

    assert diagnosis.emim_modules == ("blocks3.0.attn", "blocks4.0.attn")
    without_motion, without_appearance = copy.deepcopy(model), copy.deepcopy(model)
    for name, dim in zip(diagnosis.emim_modules, (96, 192), strict=True):
        for kind in ("weight", "bias"):
            without_motion.state_dict()[f"{name}.motion_conv.2.{kind}"].zero_()
            without_appearance.state_dict()[f"{name}.qkv.{kind}"][2 * dim :] = 0
    assert predicted(diagnosis, "motion_zeroed") == named(without_motion, views)
    assert predicted(diagnosis, "appearance_zeroed") == named(without_appearance, views)


def test_figures_are_those_of_the_predicted_classes(recogniser: Recogniser, clips: ClipList) -> None:
    diagnosis = diagnosis_of(recogniser.model, recogniser, clips)
    labels = np.array([entry.label for entry in diagnosis.clips])
    assert [condition.name for condition in diagnosis.ablations] == [
        "as_is", "frozen", "shuffled", "reversed", "motion_zeroed", "appearance_zeroed",
    ]  # fmt: skip
    as_is = (np.array(predicted(diagnosis, "as_is")) == labels).mean()
    for condition in diagnosis.ablations:
        share = (np.array(condition.predicted) == labels).mean()
        assert condition.accuracy.value == pytest.approx(share)
        if condition.name == "as_is":
            assert condition.difference is None
        else:
            assert condition.difference is not None
            assert condition.difference.value == pytest.approx(share - as_is)
    assert diagnosis.chance == pytest.approx(1 / 11)


def test_a_video_is_read_once(recogniser: Recogniser, clips: ClipList, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Path] = []

    def counting(path: Path, **options: Any) -> Any:
        opened.append(path)
        return open_video(path, **options)

    monkeypatch.setattr(emim.data.dataset, "open_video", counting)
    diagnosis_of(recogniser.model, recogniser, clips)
    assert opened == [entry.path for entry in clips]


def test_workers_and_batches_change_nothing_and_seeds_the_shuffles_alone(
    recogniser: Recogniser, clips: ClipList
) -> None:
    first = diagnosis_of(recogniser.model, recogniser, clips)
    assert diagnosis_of(recogniser.model, recogniser, clips, workers=1, batch_size=5) == first
    other = diagnosis_of(recogniser.model, recogniser, clips, seed=1)
    for name in ("as_is", "frozen", "reversed", "motion_zeroed", "appearance_zeroed"):
        assert predicted(other, name) == predicted(first, name)
    assert other.seed == 1


class Brightness(nn.Module):
    """Logits out of the mean over frames of each frame's colours: no order of frames can change them."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.head = nn.Linear(3, num_classes)

    def forward(self, clip_BCTHW: Tensor) -> Tensor:
        out: Tensor = self.head(30 * clip_BCTHW.double().mean((2, 3, 4)).float())
        return out


def test_a_network_that_sees_no_order_loses_nothing_by_it(recogniser: Recogniser, clips: ClipList) -> None:
    diagnosis = diagnosis_of(Brightness(11), recogniser, clips)
    assert [condition.name for condition in diagnosis.ablations] == ["as_is", "frozen", "shuffled", "reversed"]
    assert len(set(predicted(diagnosis, "as_is"))) > 1
    for name in ("shuffled", "reversed"):
        assert predicted(diagnosis, name) == predicted(diagnosis, "as_is")
        assert result_of(diagnosis, name).difference == Estimate(0.0, (0.0, 0.0))
    assert diagnosis.swaps == ()
    assert diagnosis.emim_modules == ()
    assert any("no EMIM module" in note for note in diagnosis.notes)


class Drift(nn.Module):
    """Knows left and right by where the picture's change from the first frame to the last lies."""

    def __init__(self, classes: tuple[str, ...]) -> None:
        super().__init__()
        self.classes = classes

    def forward(self, clip_BCTHW: Tensor) -> Tensor:
        exact_BCTHW = clip_BCTHW.double()  # the mean of equal frames is then no other value
        change_BTHW = (exact_BCTHW - exact_BCTHW.mean(2, keepdim=True)).abs().sum(1)
        across_W = torch.linspace(-1, 1, change_BTHW.shape[-1], dtype=torch.float64)
        place_BT = (change_BTHW * across_W).sum((2, 3)) / change_BTHW.sum((2, 3)).clamp_min(1e-6)
        drift_B = place_BT[:, -1] - place_BT[:, 0]
        logits_BK = torch.full((len(clip_BCTHW), len(self.classes)), -1.0)
        logits_BK[:, self.classes.index("right")] = drift_B.sign().float()
        logits_BK[:, self.classes.index("left")] = -drift_B.sign().float()
        logits_BK[:, self.classes.index("still")] = 0.5
        return logits_BK


def test_a_network_that_sees_direction_swaps_left_and_right(recogniser: Recogniser, clips: ClipList) -> None:
    diagnosis = diagnosis_of(Drift(clips.classes), recogniser, clips)
    left, right = clips.classes.index("left"), clips.classes.index("right")
    as_is, back = np.array(predicted(diagnosis, "as_is")), np.array(predicted(diagnosis, "reversed"))
    assert set(predicted(diagnosis, "frozen")) == {clips.classes.index("still")}
    assert {left, right} <= set(as_is)
    assert (back[as_is == left] == right).all()
    assert (back[as_is == right] == left).all()
