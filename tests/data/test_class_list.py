"""The class list beside a manifest: what it fixes, what it refuses, and what is wrong with a broken one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from emim.data.class_list import class_list_text, composed, read_class_list
from emim.data.folder import load_clips
from emim.data.manifest import read_manifest
from emim.errors import DataError, ManifestError

NAMES = ("wave", 'put "a, b" down', "clap")


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    for name in ("a.mp4", "b.mp4", "c.mp4"):
        (tmp_path / name).touch()
    path = tmp_path / "train.csv"
    path.write_text('path,label\na.mp4,"put ""a, b"" down"\nb.mp4,wave\nc.mp4,wave\n')
    (tmp_path / "classes.txt").write_text(class_list_text(NAMES))
    return path


def test_it_gives_classes_and_order_that_the_rows_alone_do_not_tell(manifest: Path) -> None:
    for clips in (read_manifest(manifest), load_clips(manifest, split=None), read_manifest(manifest, NAMES)):
        assert clips.classes == NAMES
        assert [entry.label for entry in clips] == [1, 0, 0]
        assert clips.counts()["clap"] == 0
    train, val = (load_clips(manifest, split=split, val_share=0.5) for split in ("train", "val"))
    assert train.classes == val.classes == NAMES
    assert len(train) + len(val) == 3


def test_without_it_the_labels_are_sorted_as_before(manifest: Path) -> None:
    (manifest.parent / "classes.txt").unlink()
    assert read_manifest(manifest).classes == ('put "a, b" down', "wave")
    assert read_manifest(manifest, NAMES).classes == NAMES


def test_class_indices_as_labels_index_the_list(manifest: Path) -> None:
    manifest.write_text("path,label\na.mp4,2\nb.mp4,0\n")
    clips = read_manifest(manifest)
    assert (clips.classes, [entry.label for entry in clips]) == (NAMES, [2, 0])


@pytest.mark.parametrize(
    ("other", "row", "message"),
    [
        (("clap", NAMES[1], "wave"), 1, "class 0 is 'wave' here, but 'clap' in the class list of the checkpoint"),
        ((NAMES[0], "put down", "clap"), 2, "class 1 is 'put \"a, b\" down' here, but 'put down'"),
        ((*NAMES, "more"), 4, "class 3 is missing here, but 'more'"),
        (NAMES[:2], 3, "class 2 is 'clap' here, but missing"),
    ],
)
def test_another_list_of_a_checkpoint_is_an_error_at_the_first_difference(
    manifest: Path, other: tuple[str, ...], row: int, message: str
) -> None:
    for read in (lambda: read_manifest(manifest, other), lambda: load_clips(manifest, split=None, classes=other)):
        with pytest.raises(ManifestError, match=re.escape(message)) as caught:
            read()
        assert (caught.value.path.name, caught.value.row) == ("classes.txt", row)


def test_a_label_outside_the_list_names_the_row(manifest: Path) -> None:
    manifest.write_text("path,label\na.mp4,wave\nb.mp4,wavee\n")
    with pytest.raises(ManifestError, match=r"row 3: label 'wavee'.*'wave'"):
        read_manifest(manifest)


@pytest.mark.parametrize(
    ("content", "row", "message"),
    [
        (b"", None, "the class list is empty"),
        (b"\n \n", None, "the class list is empty"),
        (b"a\n\nb\n", 2, "empty class name"),
        (b"a\nb\na\n", 3, "class 'a' is already in row 1"),
        (b"a\ncaf\xe9\n", None, "not UTF-8"),
    ],
)
def test_a_broken_list_names_file_and_line(tmp_path: Path, content: bytes, row: int | None, message: str) -> None:
    path = tmp_path / "classes.txt"
    path.write_bytes(content)
    with pytest.raises(ManifestError, match=message) as caught:
        read_class_list(path)
    assert (caught.value.path, caught.value.row) == (path, row)


def test_byte_order_mark_and_windows_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "classes.txt"
    path.write_bytes(b"\xef\xbb\xbfb\r\na\r\n\r\n")
    assert read_class_list(path) == ("b", "a")


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.text(min_size=1), min_size=1, unique=True))
def test_a_written_list_reads_back_or_is_refused(tmp_path: Path, names: list[str]) -> None:
    path = tmp_path / "classes.txt"
    try:
        path.write_bytes(class_list_text(names).encode("utf-8", "surrogatepass"))
    except DataError:
        same = len({*map(composed, names)}) < len(names)
        assert same or any(name != name.strip() or set(name) & {"\n", "\r"} for name in names)
        return
    if not any("\ud800" <= letter <= "\udfff" or letter == "\ufeff" for name in names for letter in name):
        assert read_class_list(path) == tuple(names)


def test_a_decomposed_name_is_the_same_class(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").touch()
    (tmp_path / "clips.csv").write_text("path,label\na.mp4,gr\u00f6\u00dfe\n")
    (tmp_path / "classes.txt").write_text("x\ngro\u0308\u00dfe\n")
    clips = read_manifest(tmp_path / "clips.csv", ("x", "gr\u00f6\u00dfe"))
    assert clips.classes[clips.entries[0].label] == "gr\u00f6\u00dfe"
    (tmp_path / "classes.txt").write_text("gr\u00f6\u00dfe\ngro\u0308\u00dfe\n")
    with pytest.raises(ManifestError, match=r"row 2: class .* is already in row 1"):
        read_class_list(tmp_path / "classes.txt")
