"""The division of clips by splits and groups, and the one place that decides on training and validation clips."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emim.data import clip_list as clip_list_module
from emim.data.folder import fingerprint, load_clips, split_clips, training_and_validation_clips, validation_clips
from emim.data.manifest import ClipEntry, ClipList, read_manifest
from emim.errors import ConfigError, DataError, ManifestError

PEOPLE = ("anna", "bo", "cy", "di", "eve")


def make(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def people(prefix: str = "", classes: tuple[str, ...] = ("wave", "clap"), who: tuple[str, ...] = PEOPLE) -> list[str]:
    return [f"{prefix}{label}/{person}_t{take}.mp4" for label in classes for person in who for take in range(4)]


def persons(clips: ClipList) -> set[str]:
    return {entry.path.name.partition("_")[0] for entry in clips}


@pytest.mark.parametrize("prefix", ["", "train/"])
def test_a_folder_is_held_out_by_groups_from_file_names(tmp_path: Path, prefix: str) -> None:
    make(tmp_path, *people(prefix))
    train, val = training_and_validation_clips(tmp_path, group_by="^([a-z]+)_")
    assert val is not None
    assert not persons(train) & persons(val)
    assert (len(train), len(val)) == (32, 8)
    assert val.counts() == {"clap": 4, "wave": 4}
    assert "1 of 5 groups" in val.note
    assert load_clips(tmp_path, split="val", group_by="^([a-z]+)_").entries == val.entries
    assert validation_clips(tmp_path, group_by="^([a-z]+)_").entries == val.entries
    again = [training_and_validation_clips(tmp_path, group_by="^([a-z]+)_", seed=seed)[1] for seed in range(8)]
    assert len({frozenset(persons(clips)) for clips in again if clips is not None}) > 1


def test_an_expression_with_a_slash_is_searched_in_the_path(tmp_path: Path) -> None:
    names = [f"{person}/{index}.mp4" for person in PEOPLE for index in range(4)]
    make(tmp_path, *names)
    rows = "".join(f"{name},{'xy'[index % 2]}\n" for index, name in enumerate(names))
    (tmp_path / "clips.csv").write_text("path,label\n" + rows)
    train, val = training_and_validation_clips(tmp_path / "clips.csv", group_by="^([a-z]+)/")
    assert val is not None
    assert not {e.path.parent for e in train} & {e.path.parent for e in val}
    assert (len(train), len(val)) == (16, 4)


@pytest.mark.parametrize(
    ("header", "group_by"), [("group", None), ("person", "column:person"), ("Film Title", "column:film title")]
)
def test_a_column_gives_the_groups(tmp_path: Path, header: str, group_by: str | None) -> None:
    names = make_rows(tmp_path, header)
    train, val = training_and_validation_clips(tmp_path / "clips.csv", group_by=group_by)
    assert val is not None
    assert not persons(train) & persons(val)
    assert len(train) + len(val) == len(names)
    assert {entry.group for entry in val} == persons(val)


def make_rows(folder: Path, header: str) -> list[str]:
    names = people()
    make(folder, *names)
    rows = [f"{name},{name.split('/')[0]},{name.split('/')[1].split('_')[0]}\n" for name in names]
    (folder / "clips.csv").write_text(f"path,label,{header}\n" + "".join(rows))
    return names


def test_a_column_of_another_name_is_not_taken_unasked(tmp_path: Path) -> None:
    make_rows(tmp_path, "person")
    train, val = training_and_validation_clips(tmp_path / "clips.csv")
    assert "not used: 'person'" in train.note
    assert val is not None
    assert "clip by clip" in val.note


@pytest.mark.parametrize(
    ("group_by", "error", "message"),
    [
        ("column:", ConfigError, "name the column"),
        ("column:person", ConfigError, "a folder has no columns"),
        ("anna|bo", ConfigError, "has 0 groups in parentheses"),
        ("(a)(b)", ConfigError, "has 2 groups in parentheses"),
        ("(a", ConfigError, "no regular expression"),
        ("(" * 5000, ConfigError, "no regular expression"),
        ("^(anna|bo)_", DataError, "does not fit the file names of 24 of 40 clips"),
        (r"(\.)mp4", DataError, "all clips are of one group, so no group can be held out"),
        ("/?(wave|clap)/", DataError, "each group holds all clips of some class"),
    ],
)
def test_rules_that_cannot_be_followed(tmp_path: Path, group_by: str, error: type[Exception], message: str) -> None:
    make(tmp_path, *people())
    with pytest.raises(error, match=message):
        training_and_validation_clips(tmp_path, group_by=group_by)


def test_two_rules_for_the_groups_are_an_error(tmp_path: Path) -> None:
    make_rows(tmp_path, "person")
    with pytest.raises(ConfigError, match="but columns has group=label"):
        training_and_validation_clips(tmp_path / "clips.csv", columns="group=label", group_by="column:person")
    with pytest.raises(ManifestError, match="column 'actor', chosen as group, is missing"):
        training_and_validation_clips(tmp_path / "clips.csv", group_by="column:actor")


def test_a_group_in_both_folders_is_an_error(tmp_path: Path) -> None:
    make(tmp_path, *people("train/", who=("anna", "bo")), *people("val/", who=("cy", "bo")))
    train, val = training_and_validation_clips(tmp_path)
    assert val is not None
    assert len(train) == len(val)
    with pytest.raises(DataError, match="groups with clips in training and in validation: 1, such as 'bo'"):
        training_and_validation_clips(tmp_path, group_by="^([a-z]+)_")
    make(tmp_path / "more", *people("", who=("cy", "anna")))
    with pytest.raises(DataError, match="such as 'anna'"):
        training_and_validation_clips(tmp_path, val=tmp_path / "more", group_by="^([a-z]+)_")


def test_segments_of_one_video_join_their_groups(tmp_path: Path) -> None:
    rows = ["path,label,start,end,group"]
    for video in range(10):
        make(tmp_path, f"{video}.mp4")
        rows += [f"{video}.mp4,{'ab'[k]},{k},{k + 1},{video + k}" for k in (0, 1)]
    (tmp_path / "clips.csv").write_text("\n".join(rows))
    with pytest.raises(DataError, match="all clips are of one group"):  # each video shares a group with the next
        training_and_validation_clips(tmp_path / "clips.csv")
    rows = [row if index % 2 else row.rpartition(",")[0] + ",x" + str(index) for index, row in enumerate(rows)]
    (tmp_path / "clips.csv").write_text("path,label,start,end,group\n" + "\n".join(rows[1:]))
    train, val = training_and_validation_clips(tmp_path / "clips.csv")
    assert val is not None
    assert not {e.path for e in train} & {e.path for e in val}


def test_the_split_column_and_its_stand_ins(tmp_path: Path) -> None:
    names = [f"{index}.mp4" for index in range(30)]
    make(tmp_path, *names)

    def manifest(*splits: str) -> Path:
        rows = [f"{name},{'xy'[i % 2]},{splits[i * len(splits) // len(names)]}\n" for i, name in enumerate(names)]
        (tmp_path / "clips.csv").write_text("path,label,split\n" + "".join(rows))
        return tmp_path / "clips.csv"

    path = manifest("train", "val", "test")
    sizes = [len(load_clips(path, split=split)) for split in ("train", "val", "test", None)]
    assert sizes == [10, 10, 10, 30]
    train, val = training_and_validation_clips(path)
    assert (len(train), val is not None and len(val)) == (10, 10)

    path = manifest("train", "train", "test")
    train, val = training_and_validation_clips(path)
    assert (len(train), val is not None and len(val)) == (16, 4)
    assert {entry.split for entry in (*train, *(val or ()))} == {"train"}

    path = manifest("train", "val")
    assert "no test rows, so those of val" in load_clips(path, split="test").note
    path = manifest("test")
    with pytest.raises(DataError, match=r"no row is of split 'train' \(found test\)"):
        training_and_validation_clips(path)
    with pytest.raises(DataError, match="no row is of split 'val'"):
        training_and_validation_clips(manifest("train"), val=tmp_path / "clips.csv")


def test_rows_of_other_splits_may_be_missing(tmp_path: Path) -> None:
    make(tmp_path, "a.mp4", "b.mp4")
    (tmp_path / "clips.csv").write_text("path,label,split\na.mp4,x,train\nb.mp4,y,train\ngone.mp4,x,test\n")
    assert len(training_and_validation_clips(tmp_path / "clips.csv", val_share=0)[0]) == 2
    with pytest.raises(ManifestError, match="1 of 1 rows name a missing file"):
        load_clips(tmp_path / "clips.csv", split="test")
    assert len(load_clips(tmp_path / "clips.csv", split="test", max_missing=1)) == 1


def test_validation_clips_of_their_own_are_all_taken(tmp_path: Path) -> None:
    make(tmp_path, *people("mine/"), *people("flat/", who=("xi",)), *people("laid/val/", who=("yu",)))
    for name, person in (("flat", "xi"), ("laid", "yu")):
        train, val = training_and_validation_clips(tmp_path / "mine", val=tmp_path / name)
        assert val is not None
        assert (len(train), len(val), persons(val)) == (40, 8, {person})
        alone = validation_clips(tmp_path / "mine", val=tmp_path / name, classes=train.classes)
        assert alone.entries == val.entries
    (tmp_path / "val.csv").write_text("path,label\nflat/wave/xi_t0.mp4,wave\ngone.mp4,clap\n")
    train, val = training_and_validation_clips(tmp_path / "mine", val=tmp_path / "val.csv")
    assert val is not None
    assert (len(train), len(val)) == (40, 2)


def test_nothing_is_held_out_at_share_zero(tmp_path: Path) -> None:
    make_rows(tmp_path, "group")
    for path in (tmp_path, tmp_path / "clips.csv"):
        train, val = training_and_validation_clips(path, val_share=0)
        assert (len(train), val) == (40, None)


def test_class_folders_in_two_unicode_forms_are_one_class(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make(tmp_path, "gr\u00f6\u00dfe/a.mp4", "gro\u0308\u00dfe/b.mp4", "Left/c.mp4", "left/d.mp4")
    with caplog.at_level(logging.WARNING):
        clips = load_clips(tmp_path, split=None)
    assert clips.classes == ("Left", "gr\u00f6\u00dfe", "left")
    assert clips.counts()["gr\u00f6\u00dfe"] == 2
    assert "class folders 'Left' and 'left' differ in upper and lower case" in caplog.text


def test_a_label_with_a_slash_is_a_warning_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "clips.csv").write_text("path,label\na.mp4,hat/cap\nb.mp4,x\n")
    with caplog.at_level(logging.WARNING):
        read_manifest(tmp_path / "clips.csv", check_files=False)
    assert caplog.text.count("'hat/cap' (in row 2) holds a slash") == 1


def test_the_digest_of_a_list_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    clips = ClipList(tuple(ClipEntry(Path(f"/d/{i}.mp4"), i % 2) for i in range(10)), ("a", "b"), Path("/d"))
    calls: Counter[str] = Counter()
    plain = clip_list_module.relative_path

    def counting(path: Path, root: Path) -> str:
        calls["relative_path"] += 1
        return plain(path, root)

    monkeypatch.setattr(clip_list_module, "relative_path", counting)
    first = fingerprint(clips)
    assert calls["relative_path"] == 10
    first["counts"]["a"] = -1  # what callers do with it does not come back
    assert fingerprint(clips)["counts"] == {"a": 5, "b": 5}
    assert calls["relative_path"] == 10


@settings(max_examples=100, deadline=None)
@given(
    rows=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 6)), min_size=2, max_size=60),
    share=st.floats(0.05, 0.8),
    seed=st.integers(0, 5),
)
def test_groups_never_cross_and_no_class_leaves_training(rows: list[tuple[int, int]], share: float, seed: int) -> None:
    entries = tuple(ClipEntry(Path(f"/d/{i}.mp4"), label, group=f"g{group}") for i, (label, group) in enumerate(rows))
    clips = ClipList(entries, ("a", "b", "c", "d"), Path("/d"))
    try:
        train, val = (split_clips(clips, split, val_share=share, seed=seed) for split in ("train", "val"))
    except DataError:
        of_class: dict[int, set[int]] = {}
        for label, group in rows:
            of_class.setdefault(label, set()).add(group)
        alone = {next(iter(groups)) for groups in of_class.values() if len(groups) == 1}
        assert alone == {group for _, group in rows}  # each group is the only one of some class
        return
    assert len(train) + len(val) == len(rows)
    assert len(val) > 0
    assert not {e.group for e in train} & {e.group for e in val}
    assert {e.label for e in train} == {label for label, _ in rows}
