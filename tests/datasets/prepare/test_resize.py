"""Preparing with re-encoded videos."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from emim.data.manifest import read_manifest
from emim.data.video import open_video
from emim.datasets.prepare import prepare
from emim.errors import DataError

Root = Callable[[str], Path]


def test_manifests_name_the_small_videos_and_keep_labels_and_ranges(originals: Root, tmp_path: Path) -> None:
    root = originals("diving48")
    plain = prepare("diving48", root, tmp_path / "plain")
    small = prepare("diving48", root, tmp_path / "small", resize=32)
    for split in ("train", "test"):
        before, after = (read_manifest(result.splits[split].manifest) for result in (plain, small))
        assert [(e.label, e.start, e.end, e.unit) for e in after] == [(e.label, e.start, e.end, e.unit) for e in before]
        assert (tmp_path / "small" / f"{split}.csv").read_text().splitlines()[1].startswith("videos/rgb/")
        with open_video(before.entries[0].path) as old, open_video(after.entries[0].path) as new:
            assert min(new.height, new.width) == 32
            assert new.num_frames == old.num_frames
    assert not prepare("diving48", root, tmp_path / "small", resize=32).changed


def test_a_video_that_cannot_be_read_is_left_out_and_listed(copy_of: Root, tmp_path: Path) -> None:
    root = copy_of("hmdb51")
    broken = root / "wave" / "A_film!_&_more_(1)_wave_u_cm_np1_fr_med_1.avi"
    broken.write_text("not a video")
    part = prepare("hmdb51", root, tmp_path / "out", resize=32).splits["train"]
    assert (part.found, part.missing) == (11, ())
    assert len(read_manifest(part.manifest)) == 11
    (failed,) = json.loads((tmp_path / "out" / "prepare.json").read_text())["splits"]["train"]["failed"]
    assert failed["path"] == f"wave/{broken.name}"
    assert failed["reason"]
    with pytest.raises(DataError, match="train: 1 videos cannot be re-encoded"):
        prepare("hmdb51", root, tmp_path / "strict", resize=32, strict=True)
