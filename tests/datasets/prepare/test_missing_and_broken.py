"""What happens when videos are missing, annotations are wrong, or the target holds something else."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

import miniature
from emim.data.manifest import read_manifest
from emim.datasets.prepare import prepare
from emim.errors import DataError, UnknownNameError

Root = Callable[[str], Path]


def contents(out: Path) -> dict[str, tuple[bytes, int]]:
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in out.iterdir() if path.is_file()}


# --- missing videos --------------------------------------------------------------------------------


def test_missing_videos_are_left_out_counted_and_all_listed(copy_of: Root, tmp_path: Path) -> None:
    root = copy_of("ssv2")
    videos = root / "20bn-something-something-v2"
    for number in (11, 22, 33, 44, 55):
        (videos / f"{number}.webm").unlink()
    (videos / "66.webm").unlink()
    (videos / "66.webm").mkdir()  # a folder of that name is no video
    result = prepare("ssv2", root, tmp_path / "out")
    part = result.splits["train"]
    assert (part.listed, part.found, len(part.missing)) == (16, 10, 6)
    assert len(read_manifest(part.manifest)) == 10
    report = json.loads((tmp_path / "out" / "prepare.json").read_text())["splits"]["train"]
    assert report["missing"] == [f"20bn-something-something-v2/{number}.webm" for number in (11, 22, 33, 44, 55, 66)]
    assert "20bn-something-something-v2" in part.where
    assert result.splits["val"].missing == ()


def test_links_count_if_they_lead_to_a_video(copy_of: Root, tmp_path: Path) -> None:
    root = copy_of("ssv2")
    videos = root / "20bn-something-something-v2"
    for number in (11, 22):
        (videos / f"{number}.webm").rename(tmp_path / f"{number}.webm")
        (videos / f"{number}.webm").symlink_to(tmp_path / f"{number}.webm")
    (tmp_path / "11.webm").unlink()
    part = prepare("ssv2", root, tmp_path / "out").splits["train"]
    assert [Path(name).name for name in part.missing] == ["11.webm"]
    assert len(read_manifest(part.manifest)) == 15


def test_class_indices_do_not_shift_when_a_class_has_no_video_left(copy_of: Root, tmp_path: Path) -> None:
    root = copy_of("hmdb51")
    for path in (root / "brush_hair").iterdir():
        path.unlink()
    result = prepare("hmdb51", root, tmp_path / "out")
    clips = read_manifest(result.splits["train"].manifest)
    assert clips.classes == miniature.HMDB
    assert {entry.path.parent.name: entry.label for entry in clips} == {"kick_ball": 1, "wave": 2}


def test_strict_names_the_missing_ones_and_writes_nothing(copy_of: Root, tmp_path: Path) -> None:
    root = copy_of("kinetics")
    gone = min((root / "val").iterdir())
    gone.unlink()
    with pytest.raises(DataError, match=rf"strict: val: 1 of 8 listed videos .*{re.escape(gone.name)}; looked in val"):
        prepare("kinetics", root, tmp_path / "out", strict=True)
    assert not (tmp_path / "out").exists()


def test_a_split_without_any_video_is_an_error_unless_it_is_not_asked_for(copy_of: Root, tmp_path: Path) -> None:
    root = copy_of("kinetics")
    shutil.rmtree(root / "train")
    with pytest.raises(DataError, match=r"none of the 16 videos of the train split .* is there; looked in train"):
        prepare("kinetics", root, tmp_path / "out")
    result = prepare("kinetics", root, tmp_path / "out", splits=["val"])
    assert list(result.splits) == ["val"]
    assert result.classes == miniature.KINETICS


def test_a_file_listed_twice_counts_once(copy_of: Root, tmp_path: Path) -> None:
    root = copy_of("ucf101")
    path = root / "ucfTrainTestlist" / "trainlist01.txt"
    first, *_ = path.read_text().splitlines()
    path.write_text(path.read_text() + first + "\n")
    result = prepare("ucf101", root, tmp_path / "out")
    assert result.splits["train"].found == len(read_manifest(result.splits["train"].manifest)) == 12
    assert any("1 clips are listed more than once" in note for note in result.notes)


def test_a_file_listed_with_two_classes_is_an_error(copy_of: Root, tmp_path: Path) -> None:
    root = copy_of("diving48")
    path = root / "Diving48_V2_train.json"
    entries = json.loads(path.read_text())
    entries[5] = {**entries[0], "label": 4}
    path.write_text(json.dumps(entries))
    with pytest.raises(DataError, match=r"-d0v_xyz_00000\.mp4 is listed with class 0 and again with class 4"):
        prepare("diving48", root, tmp_path / "out")


def test_every_folder_is_listed_once(originals: Root, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed: Counter[Path] = Counter()
    scandir = os.scandir

    def counting(path: Path) -> object:
        listed[Path(path)] += 1
        return scandir(path)

    monkeypatch.setattr(os, "scandir", counting)
    root = originals("ssv2")
    prepare("ssv2", root, tmp_path / "out")
    assert listed[root / "20bn-something-something-v2"] == 1
    assert max(listed.values()) == 1


# --- annotations -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "gone", "message"),
    [
        (
            "ssv1",
            "something-something-v1-train.csv",
            "annotations of the train split; looked for something-something-v1",
        ),
        ("ssv1", "something-something-v1-labels.csv", "class names; looked for something-something-v1-labels.csv"),
        ("ssv2", "labels/validation.json", "annotations of the val split; looked for validation.json"),
        ("ssv2", "labels/labels.json", "class names; looked for labels.json"),
        ("kinetics", "annotations/train.csv", "annotations of the train split; looked for train.csv"),
        ("diving48", "Diving48_V2_test.json", "annotations of the test split; looked for Diving48_V2_test.json"),
        ("diving48", "Diving48_vocab.json", "class names; looked for Diving48_vocab.json"),
        ("ucf101", "ucfTrainTestlist/classInd.txt", "class list; looked for classInd.txt"),
        ("ucf101", "ucfTrainTestlist/testlist01.txt", "annotations of the test split 1; looked for testlist01.txt"),
        ("hmdb51", "testTrainMulti_7030_splits", "lists of split 1; looked for <class>_test_split1.txt"),
        ("folder", "train", "no folder for split 'train'"),
    ],
)
def test_missing_annotations_say_what_was_looked_for(
    copy_of: Root, tmp_path: Path, name: str, gone: str, message: str
) -> None:
    root = copy_of(name)
    (root / gone).rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=re.escape(message)) as caught:
        prepare(name, root, tmp_path / "out")
    assert str(root) in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", miniature.NAMES)
def test_a_root_that_is_not_there(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere: no such folder"):
        prepare(name, tmp_path / "nowhere", tmp_path / "out")


def test_lists_without_class_names_are_not_guessed(copy_of: Root, tmp_path: Path) -> None:
    root = copy_of("ssv1")
    for split, old in (("train", "train"), ("val", "validation")):
        (root / f"something-something-v1-{old}.csv").unlink()
        (root / f"{split}_videofolder.txt").write_text("7 12 3\n")
    with pytest.raises(DataError, match=r"class names for the indices of the lists; looked for category\.txt"):
        prepare("ssv1", root, tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "file", "content", "message"),
    [
        ("ssv2", "labels/train.json", b"[{", "not JSON"),
        ("ssv2", "labels/train.json", b"{}", "expected a list of objects"),
        ("ssv2", "labels/train.json", b'[{"id": "11"}]', "entry 0 has no 'template'"),
        ("ssv2", "labels/train.json", b'[{"id": "11", "template": "Eating [x]"}]', "entry 0: class 'Eating x' is not"),
        ("ssv2", "labels/train.json", b"[]", "lists no clip of the train split"),
        ("ssv2", "labels/labels.json", b'{"a": "0", "b": "2"}', "indices of its 2 classes are not 0 to 1"),
        ("ssv2", "labels/labels.json", b'{"a": "0", "b": "x"}', "class 'b' has index 'x'"),
        ("ssv2", "labels/labels.json", b"[1]", "expected an object from class name to index"),
        ("ssv1", "something-something-v1-train.csv", b"7,Turning\n", "line 1: expected 'id;class', found '7,Turning'"),
        ("ssv1", "something-something-v1-train.csv", b"7;caf\xe9\n", "not UTF-8"),
        ("ssv1", "something-something-v1-labels.csv", b"a\nb\na\n", "class name 'a' is empty or occurs twice"),
        ("kinetics", "annotations/train.csv", b"label,youtube_id\na,b\n", "column 'time_start' is missing"),
        (
            "kinetics",
            "annotations/train.csv",
            b"label,youtube_id,time_start,time_end\na,b,x,2\n",
            "row 2: times 'x' and '2' are not seconds",
        ),
        ("kinetics", "annotations/train.csv", b"a.mp4,1\n", "not the provider's CSV, but that of the other split is"),
        ("kinetics", "annotations/train.csv", b"path,label\na.mp4,1\n", "a manifest, not a list of Kinetics"),
        ("diving48", "Diving48_vocab.json", b'["a"]', "expected a list of classes"),
        (
            "diving48",
            "Diving48_V2_train.json",
            b'[{"vid_name": "a", "label": 9, "start_frame": 0, "end_frame": 3}]',
            "entry 0: label 9, but the vocabulary has 5 classes",
        ),
        (
            "diving48",
            "Diving48_V2_train.json",
            b'[{"vid_name": "a", "label": 1, "start_frame": 3, "end_frame": 3}]',
            "entry 0: frames 3 to 3 hold nothing",
        ),
        (
            "diving48",
            "Diving48_V2_train.json",
            b'[{"vid_name": "a", "label": "1", "start_frame": 0, "end_frame": 3}]',
            "must be whole numbers",
        ),
        (
            "kinetics",
            "annotations/train.csv",
            b"label,youtube_id,time_start,time_end\na,b,1e999\n",
            "row 2: times '1e999' and '' are not seconds",
        ),
        ("ucf101", "ucfTrainTestlist/classInd.txt", b"1 YoYo\n3 Bowling\n", "line 2: expected '2 <class>'"),
        ("ucf101", "ucfTrainTestlist/trainlist01.txt", b"YoYo/v_a.avi 2\n", "class 2, but classInd.txt has YoYo as 3"),
        ("ucf101", "ucfTrainTestlist/trainlist01.txt", b"Bowling/v_a.avi 2\n", "line 1: class 'Bowling' is not one of"),
        ("hmdb51", "testTrainMulti_7030_splits/wave_test_split1.txt", b"a.avi 3\n", "line 1: expected '<file>.avi 0'"),
    ],
)
def test_broken_annotations_name_file_and_place(
    copy_of: Root, tmp_path: Path, name: str, file: str, content: bytes, message: str
) -> None:
    root = copy_of(name)
    (root / file).write_bytes(content)
    with pytest.raises(DataError, match=re.escape(message)) as caught:
        prepare(name, root, tmp_path / "out")
    assert Path(file).name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_broken_kinetics_lists_name_the_line(copy_of: Root, tmp_path: Path) -> None:
    root = copy_of("kinetics")
    shutil.rmtree(root / "annotations")
    (root / "val.csv").write_text("a.mp4 1\n")
    (root / "classes.txt").write_text("a\nb\n")
    for text, message in (("a.mp4\n", "line 1: expected '<file> <class index>'"), ("\n", "the list is empty")):
        (root / "train.csv").write_text(text)
        with pytest.raises(DataError, match=message):
            prepare("kinetics", root, tmp_path / "out")
    (root / "train.csv").write_text("a.mp4 1\nb.mp4 2\n")
    with pytest.raises(DataError, match="line 2: class index 2, but there are 2 classes"):
        prepare("kinetics", root, tmp_path / "out")


def test_an_unknown_data_set_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'ucf101'"):
        prepare("ucf11", tmp_path, tmp_path / "out")


# --- the target ------------------------------------------------------------------------------------


def test_a_second_run_changes_no_byte_and_a_lost_file_comes_back(originals: Root, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert prepare("diving48", originals("diving48"), out).changed
    first = contents(out)
    assert sorted(first) == ["classes.txt", "prepare.json", "test.csv", "train.csv"]
    assert not prepare("diving48", originals("diving48"), out).changed
    assert contents(out) == first

    (out / "test.csv").unlink()
    assert prepare("diving48", originals("diving48"), out).changed
    again = contents(out)
    assert {name: content for name, (content, _) in again.items()} == {n: content for n, (content, _) in first.items()}
    assert again["train.csv"] == first["train.csv"]


def test_a_new_video_is_taken_up(copy_of: Root, tmp_path: Path) -> None:
    root = copy_of("ssv1")
    folder = root / "20bn-something-something-v1" / "7"
    folder.rename(tmp_path / "later")
    assert prepare("ssv1", root, tmp_path / "out").splits["train"].found == 15
    (tmp_path / "later").rename(folder)
    result = prepare("ssv1", root, tmp_path / "out")
    assert result.changed
    assert result.splits["train"].found == 16


def test_paths_are_relative_where_the_videos_lie_below_the_target(copy_of: Root, tmp_path: Path) -> None:
    prepare("ssv2", copy_of("ssv2"), tmp_path)
    assert (tmp_path / "train.csv").read_text().splitlines()[1].startswith("ssv2/20bn-something-something-v2/11.webm,")


def test_files_of_others_are_never_replaced(originals: Root, tmp_path: Path) -> None:
    root = originals("ucf101")
    with pytest.raises(DataError, match="is the data set's own folder"):
        prepare("ucf101", root, root)
    for name in ("train.csv", "test.csv", "classes.txt"):
        out = tmp_path / name.replace(".", "_")
        out.mkdir()
        (out / name).write_text("mine")
        with pytest.raises(DataError, match=f"{name}: is there already and not from `emim prepare`"):
            prepare("ucf101", root, out)
        assert [path.read_text() for path in out.iterdir()] == ["mine"]
    with pytest.raises(DataError, match="is a file"):
        prepare("ucf101", root, tmp_path / "train_csv" / "train.csv")


def test_a_target_of_another_data_set_or_other_splits_is_refused(originals: Root, tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepare("ssv1", originals("ssv1"), out)
    before = contents(out)
    with pytest.raises(DataError, match=r"holds the data set 'ssv1'; name another folder for 'ssv2'"):
        prepare("ssv2", originals("ssv2"), out)
    with pytest.raises(DataError, match=r"train\.csv: from a run with other splits"):
        prepare("ssv1", originals("ssv1"), out, splits=["val"])
    assert contents(out) == before
    (out / "prepare.json").write_text("{}")
    with pytest.raises(DataError, match=r"prepare\.json: not readable"):
        prepare("ssv1", originals("ssv1"), out)
