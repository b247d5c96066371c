from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from emim.data.folder import load_clips
from emim.data.manifest import ClipList
from emim.data.preprocessing import Preprocessing
from emim.errors import CheckpointError, DataError
from emim.evaluation import testing
from emim.evaluation.outputs import ClipOutputs, clip_outputs
from emim.inference.recogniser import Recogniser
from emim.inference.scoring import mean_score, score_views, view_logits


@pytest.fixture
def recogniser(trained: Path) -> Recogniser:
    return Recogniser.load(trained / "model.safetensors", device="cpu")


@pytest.fixture
def clips(recogniser: Recogniser, generated: Path) -> ClipList:
    return load_clips(generated, split="test", classes=recogniser.classes)


def outputs_of(recogniser: Recogniser, clips: ClipList, **options: Any) -> ClipOutputs:
    outputs = clip_outputs(recogniser.model, clips, recogniser.preprocessing, keep_logits=True, **options)
    assert outputs is not None
    assert outputs.logits_NVK is not None
    return outputs


def result_of(outputs: ClipOutputs, clips: ClipList) -> testing.TestResult:
    return testing.summarise(outputs.score_NK, outputs.label_N, clips.classes, preprocessing=Preprocessing())


def test_accuracies_by_hand() -> None:
    scores = torch.tensor([[0.6, 0.3, 0.1], [0.2, 0.5, 0.3], [0.5, 0.4, 0.1], [0.1, 0.2, 0.7]])
    result = testing.summarise(scores, torch.tensor([0, 1, 1, 0]), ("a", "b", "c"), preprocessing=Preprocessing())
    assert result.top1 == 0.5
    assert result.top5 == 1.0
    assert [row.top1 for row in result.per_class] == [0.5, 0.5, None]
    assert result.mean_class == 0.5
    assert result.confusion == ((1, 0, 1), (1, 1, 0), (0, 0, 0))


def test_top5_and_mean_class_differ_from_top1() -> None:
    scores = torch.eye(8)[torch.tensor([0, 0, 0, 1])] + torch.linspace(0.08, 0.01, 8)
    label_B = torch.tensor([0, 0, 4, 7])
    result = testing.summarise(scores, label_B, tuple("abcdefgh"), preprocessing=Preprocessing())
    assert result.top1 == 0.5
    assert result.top5 == 0.75  # class 4 is among the five best of the third clip, 7 is not of the fourth
    assert result.mean_class == pytest.approx(1 / 3)


def test_views_are_averaged_per_video_after_the_softmax() -> None:
    class Mean(torch.nn.Module):
        def forward(self, clip: torch.Tensor) -> torch.Tensor:
            return torch.stack([clip.flatten(1).mean(1), clip.flatten(1).std(1)], 1)

    videos = [torch.randn(count, 3, 2, 4, 4) for count in (3, 1, 9)]
    scores = score_views(Mean(), videos, torch.device("cpu"))
    expected = torch.stack([Mean()(video).softmax(-1).mean(0) for video in videos])
    torch.testing.assert_close(scores, expected)

    logits = view_logits(Mean(), videos, torch.device("cpu"))
    assert [tuple(logits_VK.shape) for logits_VK in logits] == [(3, 2), (1, 2), (9, 2)]
    assert torch.equal(mean_score(logits), scores)


@pytest.mark.parametrize(
    ("hits", "count", "low", "high"), [(5, 10, 0.2366, 0.7634), (0, 10, 0.0, 0.2775), (90, 100, 0.8256, 0.9448)]
)
def test_the_interval_is_wilsons(hits: int, count: int, low: float, high: float) -> None:
    assert testing.wilson_interval(hits, count) == pytest.approx((low, high), abs=1e-4)


def test_the_same_test_gives_the_same_bits_with_any_number_of_workers(recogniser: Recogniser, clips: ClipList) -> None:
    first, again, loaded = (outputs_of(recogniser, clips, batch_size=8, workers=workers) for workers in (0, 0, 2))
    assert first.logits_NVK is not None
    assert len(first.logits_NVK) == 22
    for other in (again, loaded):
        assert other.logits_NVK is not None
        assert torch.equal(first.logits_NVK, other.logits_NVK)
        assert torch.equal(first.score_NK, other.score_NK)
        assert first.index == other.index == tuple(range(22))


@pytest.mark.parametrize("batch_size", [1, 3, 22])
def test_another_batch_size_changes_rounding_and_no_figure(
    recogniser: Recogniser, clips: ClipList, batch_size: int
) -> None:
    first, other = outputs_of(recogniser, clips, batch_size=8), outputs_of(recogniser, clips, batch_size=batch_size)
    assert first.logits_NVK is not None
    assert other.logits_NVK is not None
    assert (first.logits_NVK - other.logits_NVK).abs().max() <= 1e-5
    assert result_of(first, clips) == result_of(other, clips)
    assert sum(sum(row) for row in result_of(other, clips).confusion) == 22


def test_scores_are_those_of_the_kept_logits(recogniser: Recogniser, clips: ClipList) -> None:
    outputs = outputs_of(recogniser, clips)
    assert outputs.logits_NVK is not None
    assert torch.equal(mean_score(list(outputs.logits_NVK)), outputs.score_NK)
    labels = [entry.label for entry in clips.entries]
    assert outputs.label_N.tolist() == labels


def test_bfloat16_gives_float32_logits_that_differ_a_little(recogniser: Recogniser, clips: ClipList) -> None:
    exact, rounded = outputs_of(recogniser, clips), outputs_of(recogniser, clips, precision="bf16-mixed")
    assert exact.logits_NVK is not None
    assert rounded.logits_NVK is not None
    assert rounded.logits_NVK.dtype == torch.float32
    assert 1e-5 < (exact.logits_NVK - rounded.logits_NVK).abs().max() < 0.3


def test_logits_that_are_not_finite_are_an_error_and_no_guess(recogniser: Recogniser, clips: ClipList) -> None:
    torch.nn.init.constant_(recogniser.model.head.bias, torch.nan)
    with pytest.raises(CheckpointError, match="NaN or infinite in 32-true") as error:
        outputs_of(recogniser, clips)
    assert str(clips.entries[0].path) in str(error.value)


def test_an_unreadable_clip_is_missing_and_never_replaced(
    recogniser: Recogniser, generated: Path, tmp_path: Path
) -> None:
    shutil.copytree(generated / "test", tmp_path / "test")
    broken = sorted((tmp_path / "test" / "away").glob("*.mp4"))[0]
    broken.write_bytes(b"")
    clips = load_clips(tmp_path, split="test", classes=recogniser.classes)
    result = testing.test_model(recogniser.model, clips, recogniser.preprocessing, workers=1)
    assert result.clips == 21
    assert [path for path, _ in result.missing] == [broken]
    assert {row.name: row.clips for row in result.per_class}["away"] == 1
    for path in tmp_path.rglob("*.mp4"):
        path.write_bytes(b"")
    with pytest.raises(DataError, match="none of its 22 clips could be read"):
        testing.test_model(recogniser.model, clips, recogniser.preprocessing)


def test_prediction_agrees_with_the_test(recogniser: Recogniser, clips: ClipList) -> None:
    result = testing.test_model(recogniser.model, clips, recogniser.preprocessing)
    hits = 0
    for entry in clips.entries:
        predictions = recogniser.predict(entry.path, topk=11)
        assert sum(item.score for item in predictions) == pytest.approx(1.0, abs=1e-5)
        assert [item.score for item in predictions] == sorted((item.score for item in predictions), reverse=True)
        hits += predictions[0].label == clips.classes[entry.label]
    assert hits / len(clips) == result.top1
