from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from emim.data.folder import load_clips
from emim.errors import DataError
from emim.evaluation import testing
from emim.evaluation.recogniser import Recogniser
from emim.evaluation.views import score_views


def test_accuracies_by_hand() -> None:
    scores = torch.tensor([[0.6, 0.3, 0.1], [0.2, 0.5, 0.3], [0.5, 0.4, 0.1], [0.1, 0.2, 0.7]])
    result = testing.summarise(scores, torch.tensor([0, 1, 1, 0]), ("a", "b", "c"))
    assert result.top1 == 0.5
    assert result.top5 == 1.0
    assert [row.top1 for row in result.per_class] == [0.5, 0.5, None]
    assert result.mean_class == 0.5
    assert result.confusion == ((1, 0, 1), (1, 1, 0), (0, 0, 0))


def test_top5_and_mean_class_differ_from_top1() -> None:
    scores = torch.eye(8)[torch.tensor([0, 0, 0, 1])] + torch.linspace(0.08, 0.01, 8)
    result = testing.summarise(scores, torch.tensor([0, 0, 4, 7]), tuple("abcdefgh"))
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


def test_workers_change_nothing_and_batch_size_only_rounding(trained: Path, generated: Path) -> None:
    recogniser = Recogniser.load(trained / "model.safetensors", device="cpu")
    clips = load_clips(generated, split="test", classes=recogniser.classes)
    options = {"clip_list": clips, "preprocessing": recogniser.preprocessing}
    results = [
        testing.test_model(recogniser.model, **options, batch_size=size, workers=workers)
        for size, workers in ((8, 0), (8, 2), (3, 0))
    ]
    assert results[0] == results[1] == results[2]
    assert results[0].clips == 22
    assert sum(sum(row) for row in results[0].confusion) == 22


def test_an_unreadable_clip_is_missing_and_never_replaced(trained: Path, generated: Path, tmp_path: Path) -> None:
    shutil.copytree(generated / "test", tmp_path / "test")
    broken = sorted((tmp_path / "test" / "away").glob("*.mp4"))[0]
    broken.write_bytes(b"")
    recogniser = Recogniser.load(trained / "model.safetensors", device="cpu")
    clips = load_clips(tmp_path, split="test", classes=recogniser.classes)
    result = testing.test_model(recogniser.model, clips, recogniser.preprocessing, workers=1)
    assert result.clips == 21
    assert [path for path, _ in result.missing] == [broken]
    assert {row.name: row.clips for row in result.per_class}["away"] == 1
    for path in tmp_path.rglob("*.mp4"):
        path.write_bytes(b"")
    with pytest.raises(DataError, match="none of its 22 clips could be read"):
        testing.test_model(recogniser.model, clips, recogniser.preprocessing)


def test_prediction_agrees_with_the_test(trained: Path, generated: Path) -> None:
    recogniser = Recogniser.load(trained / "model.safetensors", device="cpu")
    clips = load_clips(generated, split="test", classes=recogniser.classes)
    result = testing.test_model(recogniser.model, clips, recogniser.preprocessing)
    hits = 0
    for entry in clips.entries:
        predictions = recogniser.predict(entry.path, topk=11)
        assert sum(item.score for item in predictions) == pytest.approx(1.0, abs=1e-5)
        assert [item.score for item in predictions] == sorted((item.score for item in predictions), reverse=True)
        hits += predictions[0].label == clips.classes[entry.label]
    assert hits / len(clips) == result.top1
