"""Folders of classes: layouts, splits, what is left out, and the errors."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

import emim.data.folder as folder_module
from emim.data.folder import discover, fingerprint, load_clips
from emim.data.manifest import ClipList
from emim.errors import ConfigError, DataError


def make(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def many(*classes: str, count: int = 10, prefix: str = "") -> list[str]:
    return [f"{prefix}{name}/{index}.mp4" for name in classes for index in range(count)]


def names_of(clips: ClipList) -> set[str]:
    return {entry.path.relative_to(clips.source).as_posix() for entry in clips}


def test_flat_folder_splits_every_class_by_the_share(tmp_path: Path) -> None:
    make(tmp_path, *many("walk", "run"), *many("jump", count=4))
    train, val, test, whole = (discover(tmp_path, split=split) for split in ("train", "val", "test", None))
    assert train.classes == ("jump", "run", "walk")
    assert train.counts() == {"jump": 3, "run": 8, "walk": 8}
    assert val.counts() == {"jump": 1, "run": 2, "walk": 2}
    assert names_of(train).isdisjoint(names_of(val))
    assert names_of(train) | names_of(val) == names_of(whole)
    assert test.entries == val.entries
    assert "20%" in train.note
    assert "seed 0" in train.note
    assert "model selection has seen" in test.note
    for clips in (train, val):
        for entry in clips:
            assert clips.classes[entry.label] == entry.path.parent.name


def test_train_folder_with_and_without_val_and_test(tmp_path: Path) -> None:
    make(tmp_path, *many("a", "b", prefix="train/"))
    assert len(discover(tmp_path, split="train")) == 16
    assert len(discover(tmp_path, split="val")) == 4

    make(tmp_path, *many("a", count=3, prefix="test/"))
    assert discover(tmp_path, split="test").counts() == {"a": 3, "b": 0}
    assert len(discover(tmp_path, split="train")) == 16

    make(tmp_path, *many("b", count=2, prefix="validation/"))
    assert discover(tmp_path, split="val").counts() == {"a": 0, "b": 2}
    assert len(discover(tmp_path, split="train")) == 20
    assert len(discover(tmp_path, split=None)) == 25


def test_test_falls_back_to_the_val_folder_and_says_so(tmp_path: Path) -> None:
    make(tmp_path, *many("a", "b", prefix="train/"), *many("a", "b", count=1, prefix="val/"))
    test = discover(tmp_path, split="test")
    assert names_of(test) == {"val/a/0.mp4", "val/b/0.mp4"}
    assert "no test folder" in test.note


@pytest.mark.parametrize("share", [0.01, 0.2, 0.5, 0.99])
def test_both_sides_keep_a_clip_of_every_class_that_has_two(tmp_path: Path, share: float) -> None:
    make(tmp_path, *many("two", count=2), *many("one", count=1), *many("seven", count=7))
    train = discover(tmp_path, split="train", val_share=share).counts()
    val = discover(tmp_path, split="val", val_share=share).counts()
    assert train["two"] == val["two"] == 1
    assert (train["one"], val["one"]) == (1, 0)
    assert train["seven"] >= 1
    assert val["seven"] == min(max(1, round(share * 7)), 6)


def test_share_zero_holds_nothing_out(tmp_path: Path) -> None:
    make(tmp_path, *many("a", "b"))
    assert len(discover(tmp_path, split="train", val_share=0)) == 20
    assert len(discover(tmp_path, split="val", val_share=0)) == 0


def test_the_split_depends_on_the_seed_but_not_on_listing_order_or_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = make(tmp_path / "here", *many("a", "b"))
    there = make(tmp_path / "there", *reversed(many("a", "b")))
    expected = names_of(discover(here, split="val", seed=3))
    assert names_of(discover(there, split="val", seed=3)) == expected
    assert any(names_of(discover(here, split="val", seed=seed)) != expected for seed in range(5))

    listing = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda path: sorted(listing(path), reverse=True))
    assert names_of(discover(here, split="val", seed=3)) == expected
    assert fingerprint(discover(here, split=None)) == fingerprint(discover(there, split=None))


def test_a_new_clip_moves_few_others(tmp_path: Path) -> None:
    make(tmp_path, *many("a", "b", count=50))
    before = names_of(discover(tmp_path, split="val"))
    make(tmp_path, "a/new.mp4")
    assert len(before - names_of(discover(tmp_path, split="val"))) <= 1


def test_frame_folders_hidden_files_and_other_files(tmp_path: Path) -> None:
    make(tmp_path, "a/clip1/00001.jpg", "a/clip2/1.PNG", "a/x.MP4", "b/y.avi", "b/z.webm")
    make(
        tmp_path,
        "a/.hidden.mp4",
        ".cache/c.mp4",
        "a/notes.txt",
        "README.md",
        "b/deeper/in/w.mp4",
        "c/notes.txt",
    )
    clips = discover(tmp_path, split=None)
    assert names_of(clips) == {"a/clip1", "a/clip2", "a/x.MP4", "b/y.avi", "b/z.webm"}
    assert clips.classes == ("a", "b")
    assert "class folders without clips: c" in clips.note
    assert "4 other files or folders" in clips.note


def test_train_may_be_a_class_of_its_own(tmp_path: Path) -> None:
    make(tmp_path, *many("train", "car", "bus"))
    assert discover(tmp_path, split=None).classes == ("bus", "car", "train")
    make(tmp_path / "split", *many("a", "b", prefix="train/"), "annotations/a.txt")
    clips = discover(tmp_path / "split", split="train")
    assert clips.classes == ("a", "b")
    assert "1 other files or folders in split ignored" in clips.note


def test_given_classes_set_the_indices(tmp_path: Path) -> None:
    make(tmp_path, *many("a", "b"))
    clips = discover(tmp_path, split=None, classes=("z", "b", "a"))
    assert clips.counts() == {"z": 0, "b": 10, "a": 10}
    assert {(entry.path.parent.name, entry.label) for entry in clips} == {("b", 1), ("a", 2)}
    with pytest.raises(DataError, match=r"class 'b' is not one of the 2 training classes.*'bb'"):
        discover(tmp_path, split=None, classes=("a", "bb"))


def test_errors_name_the_folder_and_the_layout(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone: no such folder; expected <root>/<class>/<clip>"):
        discover(tmp_path / "gone", split="train")
    make(tmp_path, "file.txt", "direct/a.mp4", "images/a/1.jpg", "none/a/x.txt", "none/b/y.txt")
    with pytest.raises(DataError, match="not a folder"):
        discover(tmp_path / "file.txt", split="train")
    with pytest.raises(DataError, match=r"direct: no class folders \(it holds 1 videos directly\)"):
        discover(tmp_path / "direct", split="train")
    with pytest.raises(DataError, match=r"images: no clips in 1 class folders; images of one clip belong"):
        discover(tmp_path / "images", split="train")
    with pytest.raises(DataError, match=r"none: no clips in 2 class folders; expected"):
        discover(tmp_path / "none", split="train")
    make(tmp_path / "single", *many("a"))
    with pytest.raises(DataError, match=r"single: only one class with clips, 'a'"):
        discover(tmp_path / "single", split="train")
    make(tmp_path / "two", *many("a", prefix="val/"), *many("a", prefix="validation/"))
    with pytest.raises(DataError, match="has both val and validation"):
        discover(tmp_path / "two", split="val")
    make(tmp_path / "testonly", *many("a", "b", prefix="test/"))
    assert len(discover(tmp_path / "testonly", split="test")) == 20
    with pytest.raises(DataError, match="no folder for split 'train' \\(found test\\)"):
        discover(tmp_path / "testonly", split="train")


def test_a_val_class_that_train_lacks_names_the_nearest(tmp_path: Path) -> None:
    make(tmp_path, *many("wave", "clap", prefix="train/"), *many("waves", prefix="val/"))
    with pytest.raises(DataError, match=r"val/waves: class 'waves' is not one of .*'wave'"):
        discover(tmp_path, split="val")


def test_wrong_options(tmp_path: Path) -> None:
    make(tmp_path, *many("a", "b"))
    split: Any = "valid"
    with pytest.raises(ConfigError, match="unknown split 'valid'"):
        discover(tmp_path, split=split)
    with pytest.raises(ConfigError, match="val_share must be"):
        load_clips(tmp_path, split="train", val_share=1.0)


def test_manifests_split_by_the_same_rule(tmp_path: Path) -> None:
    make(tmp_path, *many("a", "b"))
    rows = "".join(f"{name},{name[0]}\n" for name in many("a", "b"))
    (tmp_path / "clips.csv").write_text("path,label\n" + rows)
    for split in ("train", "val", "test", None):
        from_folder = load_clips(tmp_path, split=split, seed=5)
        from_csv = load_clips(tmp_path / "clips.csv", split=split, seed=5)
        assert {e.path for e in from_csv} == {e.path for e in from_folder}
        assert fingerprint(from_csv) == fingerprint(from_folder)
    with pytest.raises(DataError, match="not a folder"):
        load_clips(make(tmp_path, "list.doc") / "list.doc", split="train")


def test_segments_of_one_video_stay_on_one_side(tmp_path: Path) -> None:
    rows = ["path,label,start,end"]
    for video in range(20):
        make(tmp_path, f"{video}.mp4")
        rows += [f"{video}.mp4,{label},{second},{second + 1}" for second, label in enumerate("aabb")]
    (tmp_path / "clips.csv").write_text("\n".join(rows))
    train = load_clips(tmp_path / "clips.csv", split="train")
    val = load_clips(tmp_path / "clips.csv", split="val")
    assert len(train) + len(val) == 80
    assert {e.path for e in train}.isdisjoint({e.path for e in val})
    assert val.counts() == {"a": 8, "b": 8}


def test_a_video_that_holds_all_of_a_class_stays_in_training(tmp_path: Path) -> None:
    rows = ["path,label,start,end"]
    for video in range(10):
        make(tmp_path, f"{video}.mp4")
        rows += [f"{video}.mp4,common,0,1"]
    rows += ["3.mp4,rare,1,2", "3.mp4,rare,2,3"]
    (tmp_path / "clips.csv").write_text("\n".join(rows))
    for seed in range(20):
        train = load_clips(tmp_path / "clips.csv", split="train", seed=seed, val_share=0.5)
        assert train.counts() == {"common": 5, "rare": 2}


def test_the_fingerprint_sees_every_change(tmp_path: Path) -> None:
    make(tmp_path, "a.mp4", "b.mp4")
    prints = []
    for rows in (
        "a.mp4,x,,\nb.mp4,y,,",
        "a.mp4,y,,\nb.mp4,x,,",
        "a.mp4,x,1,\nb.mp4,y,,",
        "a.mp4,x,1f,\nb.mp4,y,,",
    ):
        (tmp_path / "c.csv").write_text(f"path,label,start,end\n{rows}\n")
        prints.append(fingerprint(load_clips(tmp_path / "c.csv", split=None)))
    for one, other in itertools.combinations(prints, 2):
        assert one["sha256"] != other["sha256"]
    assert prints[0]["counts"] == {"x": 1, "y": 1}
    assert prints[0]["num_clips"] == 2
    assert folder_module.fingerprint(load_clips(tmp_path / "c.csv", split=None)) == prints[-1]
