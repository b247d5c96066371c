"""Manifests: what is read, what is written, and the error of every kind of wrong row."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from emim.data.manifest import ClipEntry, ClipList, read_manifest, relative_path, write_manifest
from emim.errors import DataError, ManifestError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.mp4", "b.mp4", "c.mp4", "odd, name.mp4"):
        (tmp_path / name).touch()
    (tmp_path / "frames").mkdir()
    return tmp_path


def write(folder: Path, text: str | bytes) -> Path:
    path = folder / "clips.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_names_are_sorted_into_classes_and_paths_start_at_the_manifest(folder: Path) -> None:
    path = write(folder, f'path,label\na.mp4,wave\n"odd, name.mp4",clap\n{folder / "b.mp4"}, wave \nframes,clap\n')
    clips = read_manifest(path)
    assert clips.classes == ("clap", "wave")
    assert [entry.label for entry in clips] == [1, 0, 1, 0]
    assert [entry.path.name for entry in clips] == ["a.mp4", "odd, name.mp4", "b.mp4", "frames"]
    assert all(entry.path.parent == folder for entry in clips)
    assert [entry.row for entry in clips] == [2, 3, 4, 5]
    assert clips.counts() == {"clap": 2, "wave": 2}


def test_byte_order_mark_blank_lines_column_order_and_crlf(folder: Path) -> None:
    text = b"\xef\xbb\xbfLabel,path\r\n\r\nwave,a.mp4\r\nclap,b.mp4\r\n"
    clips = read_manifest(write(folder, text))
    assert [clips.classes[entry.label] for entry in clips] == ["wave", "clap"]
    assert [entry.row for entry in clips] == [3, 4]


def test_a_given_class_list_sets_the_indices(folder: Path) -> None:
    path = write(folder, "path,label\na.mp4,wave\n")
    clips = read_manifest(path, classes=("wave", "clap"))
    assert (clips.classes, clips.entries[0].label) == (("wave", "clap"), 0)


def test_integer_labels_are_indices_in_numeric_order(tmp_path: Path) -> None:
    for index in range(11):
        (tmp_path / f"{index}.mp4").touch()
    path = write(tmp_path, "path,label\n" + "".join(f"{i}.mp4,{i}\n" for i in (10, 2, *range(2), *range(3, 10))))
    clips = read_manifest(path)
    assert clips.classes == tuple(str(index) for index in range(11))
    assert [entry.label for entry in clips][:2] == [10, 2]


def test_integer_labels_with_a_class_list(folder: Path) -> None:
    path = write(folder, "path,label\na.mp4,0\nb.mp4,2\n")
    clips = read_manifest(path, classes=("x", "y", "z"))
    assert [entry.label for entry in clips] == [0, 2]
    assert "class indices" in clips.note
    named = read_manifest(path, classes=("2", "1", "0"))
    assert [entry.label for entry in named] == [2, 0]


def test_start_and_end(folder: Path) -> None:
    path = write(folder, "path,label,start,end\na.mp4,x,0.5,2\nb.mp4,y,10f,20f\nc.mp4,x,,\nframes,y,,30f\n")
    a, b, c, frames = read_manifest(path).entries
    assert (a.start, a.end, a.unit) == (0.5, 2.0, "s")
    assert (b.start, b.end, b.unit) == (10.0, 20.0, "frame")
    assert a.frame_range(100, 30.0) == (15, 60)
    assert b.frame_range(100, 30.0) == (10, 20)
    assert c.frame_range(100, 30.0) == (0, 100)
    assert frames.frame_range(25, 30.0) == (0, 25)


def test_seconds_hit_the_frame_they_name() -> None:
    # 0.1 * 30 is a little above 3 in floating point.
    for frame in range(200):
        assert ClipEntry(Path("a"), 0, start=frame / 29.97).frame_range(500, 29.97)[0] == frame
        assert ClipEntry(Path("a"), 0, end=(frame + 1) * 0.1).frame_range(999, 30.0)[1] == 3 * (frame + 1)


def test_a_range_behind_the_video_names_file_and_row() -> None:
    entry = ClipEntry(Path("a.mp4"), 0, start=10.0, end=12.0, row=7)
    with pytest.raises(DataError, match=r"a\.mp4.*row 7.*10 to 12.*50 frames at 25 fps"):
        entry.frame_range(50, 25.0)


@pytest.mark.parametrize(
    ("text", "row", "message"),
    [
        ("", None, "the file is empty"),
        ("path,label\n", None, "no rows"),
        ("a,wave\n", 1, "'path' is missing from the header 'a,wave'"),
        ("path,label,strat\na.mp4,x,1\n", 1, "unknown column 'strat'; did you mean 'start'?"),
        ("path,label,label\na.mp4,x,y\n", 1, "'label' occurs twice"),
        ("path,label\na.mp4,x\nb.mp4\n", 3, "1 fields, but the header has 2"),
        ("path,label\nodd, name.mp4,x\n", 2, "3 fields, but the header has 2"),
        ("path,label\na.mp4,x\nb.mp4, \n", 3, "empty label"),
        ("path,label\n,x\n", 2, "empty path"),
        ("path,label,start,end\na.mp4,x,one,2\n", 2, "start 'one' is neither"),
        ("path,label,start,end\na.mp4,x,1,nan\n", 2, "end 'nan' is neither"),
        ("path,label,start,end\na.mp4,x,-1,2\n", 2, "start '-1' is neither"),
        ("path,label,start,end\na.mp4,x,1.5f,2f\n", 2, "start '1.5f' is neither"),
        ("path,label,start,end\na.mp4,x,2,2\n", 2, "start 2 is not before end 2"),
        ("path,label,start,end\na.mp4,x,,0\n", 2, "start 0 is not before end 0"),
        ("path,label,start,end\na.mp4,x,1,30f\n", 2, "must both be seconds or both be frames"),
        ("path,label\na.mp4,x\nb.mp4,y\na.mp4,x\n", 4, "the same clip as row 2"),
        ("path,label\na.mp4,x\n./a.mp4,y\n", 3, "the same clip with another label as row 2"),
        ("path,label\na.mp4,0\nb.mp4,-1\n", 3, "class index -1 is negative"),
        ("path,label\na.mp4,0\nb.mp4,2\n", 3, "no row has index 1"),
        ("path,label\na.mp4,1\n", 2, "no row has index 0"),
        ("path,label\na.mp4,x\ngone.mp4,y\n", 3, "1 of 2 rows name a missing file"),
        (b"path,label\na.mp4,caf\xe9\n", 2, "byte 0xe9 is not UTF-8"),
        ('path,label\n"a.mp4,x\n', 2, "not valid CSV"),
    ],
)
def test_errors_name_file_and_row(folder: Path, text: str | bytes, row: int | None, message: str) -> None:
    path = write(folder, text)
    with pytest.raises(ManifestError, match=re.escape(message)) as caught:
        read_manifest(path)
    assert caught.value.path == path
    assert caught.value.row == row
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_label_names_the_nearest_class(folder: Path) -> None:
    path = write(folder, "path,label\na.mp4,wave\nb.mp4,clapp\n")
    with pytest.raises(ManifestError, match=r"row 3: label 'clapp' is not one of the 2 classes.*'clap'"):
        read_manifest(path, classes=("clap", "wave"))
    with pytest.raises(ManifestError, match="outside the 2 classes"):
        read_manifest(write(folder, "path,label\na.mp4,5\n"), classes=("clap", "wave"))


def test_missing_files_are_listed_up_to_a_limit(folder: Path) -> None:
    path = write(folder, "path,label\n" + "".join(f"gone{i}.mp4,x\n" for i in range(9)) + "a.mp4,y\n")
    with pytest.raises(ManifestError, match=r"9 of 10 rows.*gone4\.mp4 \(row 6\) and 4 more"):
        read_manifest(path)
    assert len(read_manifest(path, check_files=False)) == 10


def test_a_share_of_files_may_be_missing(folder: Path) -> None:
    path = write(folder, "path,label\n" + "".join(f"gone{i}.mp4,x\n" for i in range(2)) + "a.mp4,y\nb.mp4,y\n")
    assert len(read_manifest(path, max_missing=0.5)) == 4
    with pytest.raises(ManifestError, match=r"row 2: 2 of 4 rows name a missing file, 1 may: .*gone0\.mp4 \(row 2\)"):
        read_manifest(path, max_missing=0.49)


def test_missing_manifest_and_folder_in_its_place(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="no such file"):
        read_manifest(tmp_path / "none.csv")
    with pytest.raises(ManifestError, match="cannot be read"):
        read_manifest(tmp_path)


def test_segments_of_one_video_are_no_duplicates(folder: Path) -> None:
    path = write(folder, "path,label,start,end\na.mp4,x,0,1\na.mp4,y,1,2\na.mp4,x,0f,1f\n")
    assert len(read_manifest(path)) == 3


def test_what_is_written_reads_back(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    outside = tmp_path_factory.mktemp("outside") / "d.mp4"
    outside.touch()
    entries = (
        ClipEntry(folder / "a.mp4", 1, 0.1, 2.5),
        ClipEntry(folder / "odd, name.mp4", 0, 3.0, 40.0, "frame"),
        ClipEntry(outside, 1),
    )
    clips = ClipList(entries, ("clap", "wave"), folder)
    path = folder / "sub" / "written.csv"
    write_manifest(path, clips)
    assert "odd, name.mp4" in path.read_text()
    write_manifest(folder / "written.csv", clips)
    again = read_manifest(folder / "written.csv")
    assert again.entries == entries
    assert again.classes == clips.classes
    assert (folder / "written.csv").read_text().splitlines()[1] == "a.mp4,wave,0.1,2.5"


@pytest.mark.parametrize(
    ("path", "root", "expected"),
    [
        ("/a/b/c.mp4", "/a/b", "c.mp4"),
        ("/a/b/../b/./c.mp4", "/a/b/", "c.mp4"),
        ("/a/bc.mp4", "/a/b", "/a/bc.mp4"),
        ("/a/b", "/a/b", "."),
        ("/a/b", "/", "a/b"),
        ("/a", "/a/b", "/a"),
    ],
)
def test_relative_paths(path: str, root: str, expected: str) -> None:
    assert relative_path(Path(path), Path(root)) == expected


def test_a_failed_write_leaves_the_old_file(folder: Path) -> None:
    path = folder / "clips.csv"
    path.write_text("old")
    broken = ClipList((ClipEntry(folder / "a.mp4", 0), ClipEntry(folder / "b.mp4", 9)), ("x",), folder)
    with pytest.raises(IndexError):
        write_manifest(path, broken)
    assert path.read_text() == "old"
    assert not list(folder.glob(".*.tmp"))
