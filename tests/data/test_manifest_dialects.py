"""Manifests as people and programs export them: read as the plain form would be, or refused with a reason."""

from __future__ import annotations

import csv
import io
import os
import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from emim.data.class_list import class_list_text, composed, doubtful_name, needs_class_list, same_but_for_case
from emim.data.folder import load_clips, split_clips
from emim.data.manifest import ClipEntry, ClipList, parse_columns, read_manifest, write_manifest
from emim.errors import ConfigError, DataError, ManifestError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("dialects")
    for name in ("a.mp4", "b.mp4", "odd, name.mp4", "my clip.mp4", "#1.mp4"):
        (path / name).touch()
    for name in ("shot 1", "shot"):
        (path / name).mkdir()
        (path / name / "00001.jpg").touch()
    return path


def write(folder: Path, content: str | bytes, name: str = "clips.csv") -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def rows_of(clips: ClipList) -> list[tuple[str, str, float | None, float | None]]:
    return [(entry.path.name, clips.classes[entry.label], entry.start, entry.end) for entry in clips]


PLAIN = [("a.mp4", "wave", None, None), ("b.mp4", "clap", None, None)]
TIMED = [("a.mp4", "wave", 1.5, 90.0), ("b.mp4", "clap", None, None)]


@pytest.mark.parametrize(
    ("content", "expected", "note"),
    [
        ("path;label\na.mp4;wave\nb.mp4;clap\n", PLAIN, "separator ';'"),
        ("path\tlabel\na.mp4\twave\nb.mp4\tclap\n", PLAIN, "separator tab"),
        ("sep=;\r\npath;label\r\na.mp4;wave\r\nb.mp4;clap\r\n", PLAIN, "line sep=';'"),
        ('"sep=,"\npath,label\na.mp4,wave\nb.mp4,clap\n', PLAIN, "line sep=','"),
        ("path,label\na.mp4,wave\nb.mp4,clap\n".encode("utf-16"), PLAIN, "UTF-16"),
        ("\ufeffpath,label\na.mp4,wave\nb.mp4,clap\n".encode("utf-16-be"), PLAIN, "UTF-16"),
        ("path,label\na.mp4,wave\nb.mp4,clap\n".encode("utf-32"), PLAIN, "UTF-32"),
        (",path,label\n0,a.mp4,wave\n1,b.mp4,clap\n", PLAIN, "column without a name not used"),
        ("Unnamed: 0,path,label\n0,a.mp4,wave\n1,b.mp4,clap\n", PLAIN, "column without a name not used"),
        ("path,label,\na.mp4,wave,\nb.mp4,clap,\n", PLAIN, "empty fields at the ends of rows dropped"),
        ("path,label\na.mp4,wave,\nb.mp4,clap\n,,\n", PLAIN, "empty fields at the ends of rows dropped"),
        ("# made by hand\npath,label\n# the first\na.mp4,wave\nb.mp4,clap\n", PLAIN, "2 comment lines skipped"),
        ("# path,label\na.mp4,wave\nb.mp4,clap\n", PLAIN, "2 clips of 2 classes"),
        ("# path,label\npath,label\na.mp4,wave\nb.mp4,clap\n", PLAIN, "1 comment line skipped"),
        ("video_path,class\na.mp4,wave\nb.mp4,clap\n", PLAIN, "column 'video_path' as path, 'class' as label"),
        ("filename,category,fps\na.mp4,wave,30\nb.mp4,clap,25\n", PLAIN, "not used: 'fps'"),
        ("Video Name;Label_Name\na.mp4;wave\nb.mp4;clap\n", PLAIN, "'Video Name' as path"),
        ("clip_name,clip_path,action\nx,a.mp4,wave\ny,b.mp4,clap\n", PLAIN, "'clip_path' as path, 'action' as label"),
        ("class,class_id,file\nwave,1,a.mp4\nclap,0,b.mp4\n", PLAIN, "'file' as path, 'class' as label"),
        ("path,label\na.mp4,wave\npath,label\nb.mp4,clap\n", PLAIN, "1 repeated header line skipped"),
        ("a.mp4,wave\nb.mp4,clap\n", PLAIN, "no header: path, label"),
        ("wave,a.mp4\nclap,b.mp4\n", PLAIN, "no header: label, path"),
        ("a.mp4 wave\nb.mp4 clap\n", PLAIN, "no header: path, label"),
        ("a.mp4\twave\nb.mp4\tclap\n", PLAIN, "no header: path, label; separator tab"),
        ("path label\na.mp4 wave\nb.mp4 clap\n", PLAIN, "separator space"),
        ("a.mp4 120 1\nb.mp4 80 0\n", [("a.mp4", "1", None, None), ("b.mp4", "0", None, None)], "not used"),
        ("a.mp4,120,1\nb.mp4,80,0\n", [("a.mp4", "1", None, None), ("b.mp4", "0", None, None)], "not used"),
        ("my clip.mp4 1\nb.mp4 0\n", [("my clip.mp4", "1", None, None), ("b.mp4", "0", None, None)], "no header"),
        ('"my clip.mp4" 1\nb.mp4 0\n', [("my clip.mp4", "1", None, None), ("b.mp4", "0", None, None)], "no header"),
        ("odd, name.mp4,1\nb.mp4,0\n", [("odd, name.mp4", "1", None, None), ("b.mp4", "0", None, None)], "no header"),
        ("shot 1 24 1\nb.mp4 30 0\n", [("shot 1", "1", None, None), ("b.mp4", "0", None, None)], "not used"),
        ("#1.mp4,wave\nb.mp4,clap\n", [("#1.mp4", "wave", None, None), PLAIN[1]], "no header"),
        ("path,label,start,end\na.mp4,wave,1.5,1:30\nb.mp4,clap,,\n", TIMED, "times as [hh:]mm:ss"),
        ("path,label,start,end\na.mp4,wave,00:00:01.500,00:01:30\nb.mp4,clap,,\n", TIMED, "times as [hh:]mm:ss"),
        ("path;label;start;end\na.mp4;wave;1,5;90,0\nb.mp4;clap;;\n", TIMED, "decimal commas"),
        ("path,label,start_time,end_time\na.mp4,wave,1.5,90\nb.mp4,clap,,\n", TIMED, "'start_time' as start"),
        ("path,label,Start (s),End (s)\na.mp4,wave,1.5 s,90s\nb.mp4,clap,,\n", TIMED, "'Start (s)' as start"),
        ("path,label,start_ms,end_ms\na.mp4,wave,1500,90000\nb.mp4,clap,,\n", TIMED, "'start_ms' as start"),
        (
            "path,label,start_frame,stop_frame\na.mp4,wave,15,90.0\nb.mp4,clap,,\n",
            [("a.mp4", "wave", 15.0, 90.0), PLAIN[1]],
            "the end is exclusive",
        ),
        ("path,label\r\n.\\a.mp4,wave\r\nb.mp4,clap\r\n", PLAIN, "backslashes in paths taken as /"),
        ("path,label\na.mp4,1.0\nb.mp4,0.0\n", [("a.mp4", "1", None, None), ("b.mp4", "0", None, None)], "decimals"),
        ("path,label\na.mp4,gr\u00f6\u00dfe\nb.mp4,gro\u0308\u00dfe\n", None, "composed form (NFC), first in row 3"),
    ],
)
def test_an_exported_table_is_read_and_the_note_says_how(
    folder: Path, content: str | bytes, expected: list[tuple[str, str, float | None, float | None]] | None, note: str
) -> None:
    clips = read_manifest(write(folder, content))
    if expected is None:
        expected = [(name, "gr\u00f6\u00dfe", None, None) for name in ("a.mp4", "b.mp4")]
        assert clips.classes == ("gr\u00f6\u00dfe",)
    assert rows_of(clips) == expected
    assert note in clips.note
    assert "\n" not in clips.note
    if "start_frame" in str(content):
        assert clips.entries[0].unit == "frame"


def test_the_plain_form_has_no_remark(folder: Path) -> None:
    clips = read_manifest(write(folder, "path,label,start,end\na.mp4,wave,1,2\nb.mp4,clap,3f,4f\n"))
    assert clips.note == "2 clips of 2 classes from manifest clips.csv"


def test_lists_of_other_programs_have_other_endings(folder: Path) -> None:
    path = write(folder, "a.mp4 1\nb.mp4 0\n", "train_list_videos.txt")
    clips = load_clips(path, split=None)
    assert rows_of(clips) == [("a.mp4", "1", None, None), ("b.mp4", "0", None, None)]
    assert clips.root == folder


def test_lists_of_folders_that_are_elsewhere_are_lists_all_the_same(folder: Path) -> None:
    with pytest.raises(ManifestError, match=r"row 1: 2 of 2 rows name a missing file"):
        read_manifest(write(folder, "some/dir-1 163 1\nsome/dir-2 122 0\n"))


def test_row_numbers_are_lines_of_the_file(folder: Path) -> None:
    clips = read_manifest(write(folder, "sep=;\n# note\n\npath;label\na.mp4;x\n\n# note\nb.mp4;y\n"))
    assert [entry.row for entry in clips] == [5, 8]


@pytest.mark.parametrize(
    ("content", "columns", "expected"),
    [
        ("who,where\nwave,a.mp4\nclap,b.mp4\n", "path=where,label=who", PLAIN),
        ("Who,Where Is It\nwave,a.mp4\nclap,b.mp4\n", "path=where_is_it,label=who", PLAIN),
        ("label,label_name,path\n1,wave,a.mp4\n0,clap,b.mp4\n", "label=label_name", PLAIN),
        ("a.mp4,wave,x\nb.mp4,clap,y\n", "path=1,label=2", PLAIN),
        ("x;y;z\na.mp4;q;wave\nb.mp4;q;clap\n", "path=1,label=3", PLAIN),
        ("a.mp4,wave,1.5,90\nb.mp4,clap,,\n", "path=1,label=2,start=3,end=4", TIMED),
        ("path,label,start\na.mp4,wave,x\nb.mp4,clap,y\n", "start=", PLAIN),
        ("path,label,split\na.mp4,wave,A\nb.mp4,clap,B\n", "split=", PLAIN),
    ],
)
def test_chosen_columns_decide(
    folder: Path, content: str, columns: str, expected: list[tuple[str, str, float | None, float | None]]
) -> None:
    path = write(folder, content)
    assert rows_of(read_manifest(path, columns=columns)) == expected
    assert rows_of(load_clips(path, split=None, columns=parse_columns(columns))) == expected


@pytest.mark.parametrize(
    ("content", "columns", "row", "message"),
    [
        ("path,label,label_name\na.mp4,0,x\n", None, 1, "columns 'label' and 'label_name' may all be the label"),
        ("video,file,class\na.mp4,b.mp4,x\n", None, 1, "'video' and 'file' may all be the path; choose one with --col"),
        ("name,class\na.mp4,x\n", None, 1, "'path' is missing from the header 'name,class'"),
        ("who,where\na.mp4,x\n", None, 1, "--columns path=who,label=where"),
        ("a.mp4,wave,x\nb.mp4,clap,y\n", None, 1, "no header, and 3 columns ('a.mp4,wave,x')"),
        ("a.mp4,wave,1.5,4\n", None, 1, "name the columns by number, such as --columns path=1,label=2"),
        ("shot 1 2\n", None, 1, "may mean path 'shot 1' with label '2' or path 'shot' with label '2'"),
        ("path,label\na.mp4,x\n", "label=klass", 1, "column 'klass', chosen as label, is missing from the header"),
        ("path,label\na.mp4,x\n", "path=label", 1, "column 'label' is missing from the header"),
        ("a.mp4,x\n", "path=1,label=5", 1, "2 fields, but column 5 is chosen"),
        ("a.mp4,x\n", "path=1", None, "column 'label' is not chosen"),
        ('path,label,start\na.mp4,x,"1,500"\n', None, 2, "start '1,500' is neither seconds"),
        ("path,label,start\na.mp4,x,1:75\n", None, 2, "start '1:75' is neither seconds"),
        ("path,label,start\na.mp4,x,1:02:03:04\n", None, 2, "is neither seconds"),
        ("path,label,start_frame\na.mp4,x,1.5\n", None, 2, "start '1.5' is no frame index"),
        ("path,label,split\na.mp4,x,train\nb.mp4,y,maybe\n", None, 3, "split 'maybe' is none of train, val, test"),
        ("path,label,split\na.mp4,x,train\nb.mp4,y,\n", None, 3, "split '' is none of train, val, test"),
        ("path,label,group\na.mp4,x,anna\nb.mp4,y,\n", None, 3, "empty group"),
        (
            "path,label,split,group\na.mp4,x,train,1\nb.mp4,y,val,1\n",
            None,
            3,
            "group '1' is in train (row 2) and in val",
        ),
        (b"PK\x03\x04rest", None, None, "is an archive or an Excel workbook; save it as CSV"),
        (b"version https://git-lfs.github.com/spec/v1\n", None, None, "is a Git LFS pointer"),
    ],
)
def test_ambiguous_tables_are_refused_with_the_way_out(
    folder: Path, content: str | bytes, columns: str | None, row: int | None, message: str
) -> None:
    path = write(folder, content)
    with pytest.raises(ManifestError, match=re.escape(message)) as caught:
        read_manifest(path, columns=columns)
    assert caught.value.row == row


@pytest.mark.parametrize(
    ("text", "message"),
    [("path", "must be ROLE=COLUMN"), ("pth=a", "did you mean 'path'"), ("path=a,path=b", "path is given twice")],
)
def test_malformed_columns(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_columns(text)
    assert parse_columns(" path = video path , split=,") == {"path": "video path", "split": ""}
    assert parse_columns(None) == {}


@pytest.mark.parametrize(
    ("labels", "row", "message"),
    [
        (("wave", "nan"), 3, "label 'nan' reads like a missing value (in row 3)"),
        (("NaN", "wave"), 2, "label 'NaN' reads like a missing value (in row 2)"),
        (("None", "None"), 2, "label 'None' reads like a missing value (in rows 2, 3)"),
        (("null", "wave"), 2, "reads like a missing value"),
        (("wave", "\u200b"), 3, "holds the invisible character U+200B (zero width space)"),
        (("wave", "wa\u200bve"), 3, "holds the invisible character U+200B (zero width space) (in row 3)"),
        (("wave", "\ufeffwave"), 3, "holds the invisible character U+FEFF (zero width no-break space)"),
        (("wave", "\u3164"), 3, "holds the invisible character U+3164 (hangul filler)"),
        (("wave", "\u00a0"), 3, "empty label"),
        (("Left", "left"), 3, "labels 'Left' (in row 2) and 'left' (in row 3) differ in upper and lower case"),
        (("two  hands", "two hands"), 3, "differ in upper and lower case or spaces alone"),
        (("../up", "down"), 2, "label '../up' reads like a path (in row 2)"),
        (("up", "a/../b"), 3, "reads like a path"),
        ((".up", "down"), 2, "reads like a path"),
        (("up", "C:\\down"), 3, "reads like a path"),
        (("0.0", "wave"), 2, "label '0.0' is a class index with decimals, but 'wave' (in row 3) is a name"),
        (("wave.mp4", "wave"), 2, "is the name of a video (in row 2); exchange the columns"),
        (("9" * 5000, "1"), 2, "class index 99999"),
        (("x" * 5000, "y"), 2, "has 5,000 characters"),
        (("9" * 5000 + ".0", "1"), 2, "class index 99999"),
        (("-" + "9" * 5000, "1"), 2, "class index -99999"),
        (("9" * 9, "0"), 2, "no row has index 1"),
    ],
)
def test_labels_that_cannot_be_meant_name_their_rows(
    folder: Path, labels: tuple[str, str], row: int, message: str
) -> None:
    path = write(
        folder, "path,label\n" + "".join(f"{name},{label}\n" for name, label in zip("ab", labels, strict=True))
    )
    with pytest.raises(ManifestError, match=re.escape(message)) as caught:
        read_manifest(path, check_files=False)
    assert caught.value.row == row
    assert len(str(caught.value)) < 600


def test_a_class_list_makes_any_name_a_class(folder: Path, tmp_path: Path) -> None:
    names = ("None", "Left", "left", "../up", "0.0")
    (tmp_path / "classes.txt").write_text(class_list_text(names))
    path = write(tmp_path, "path,label\n" + "".join(f"{index}.mp4,{name}\n" for index, name in enumerate(names)))
    clips = read_manifest(path, check_files=False)
    assert [clips.classes[entry.label] for entry in clips] == list(names)
    assert needs_class_list(names)


def test_a_composed_label_fits_a_decomposed_class(folder: Path) -> None:
    path = write(folder, "path,label\na.mp4,gr\u00f6\u00dfe\n")
    clips = read_manifest(path, classes=("x", "gro\u0308\u00dfe"))
    assert clips.entries[0].label == 1


@pytest.mark.parametrize(
    ("content", "row", "message"),
    [
        ("path,label\n" + "x" * 5000 + ".mp4,a\n", 2, "name a missing file"),
        ("path,label\n" + "x/" * 5000 + ".mp4,a\n", 2, "name a missing file"),
        ("path,label\na\0.mp4,x\n", 2, "holds a NUL character"),
        ("path,label,start\na.mp4,x," + "9" * 5000 + "f\n", 2, "is beyond any video"),
        ("path,label,start\na.mp4,x," + "9" * 400 + "\n", 2, "is beyond any video"),
        ("path,label,start\na.mp4,x,1e300\n", 2, "is beyond any video"),
        ("path,label,end\na.mp4,x,1e400\n", 2, "is beyond any video"),
        ("path,label,start\na.mp4,x," + "9" * 5000 + ":30\n", 2, "is neither seconds"),
        ("path,label,start\na.mp4,x,1_000\n", 2, "is neither seconds"),
        ("path,label\na.mp4," + "x" * 200_000 + "\n", 2, "not valid CSV: field larger than field limit"),
        ("path,label,split\na.mp4,x," + "y" * 5000 + "\n", 2, "is none of train, val, test"),
        ("x" * 5000 + ",y\na.mp4,b\n", 1, "'path' is missing from the header"),
        ("path,label,start,end\na.mp4,x," + "9" * 5000 + "f,1\n", 2, "is beyond any video"),
        ('path,label\n"a\nb.mp4",x\n', 3, "holds a line break"),
    ],
)
def test_extreme_values_are_one_short_error(folder: Path, content: str, row: int, message: str) -> None:
    path = write(folder, content)
    with pytest.raises(ManifestError, match=re.escape(message)) as caught:
        load_clips(path, split=None)
    assert caught.value.row == row
    assert len(str(caught.value)) < 900


def test_names_that_the_file_system_refuses(tmp_path: Path) -> None:
    for name in ("x" * 5000 + ".csv", "x" * 5000, "a\0.csv"):
        with pytest.raises(DataError):
            load_clips(tmp_path / name, split="train")


def test_a_manifest_that_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(ManifestError, match="is no regular file"):
        read_manifest(tmp_path / "pipe.csv")


def test_a_giant_file_is_refused_without_reading_all_of_it(tmp_path: Path) -> None:
    path = tmp_path / "giant.csv"
    with path.open("wb") as file:
        file.truncate(2**40)  # sparse
    with pytest.raises(ManifestError, match="so hardly a manifest"):
        read_manifest(path)


def test_a_missing_file_is_explained(folder: Path) -> None:
    with pytest.raises(ManifestError, match=r"A\.mp4 \(row 2\); in another spelling there is a\.mp4"):
        read_manifest(write(folder, "path,label\nA.mp4,x\n"))


# --- properties ------------------------------------------------------------------------------------

_LETTERS = st.characters(
    blacklist_categories=("Cs", "Cc", "Cf", "Zl", "Zp", "Zs", "Co", "Cn", "Mn"), max_codepoint=0x2FFF
)
_WORDS = st.text(st.sampled_from("abcxyz_-#;,' \u00e9\u4e2d()[]=|\""), min_size=1, max_size=12)
_PATHS = _WORDS.filter(lambda text: text.strip() == text).map(lambda text: f"{text}.mp4")
_NAMES = (
    st.text(_LETTERS, min_size=1, max_size=10)
    .map(composed)
    .filter(lambda name: doubtful_name(name) is None and name == name.strip() and not re.fullmatch(r"-?[0-9.]+", name))
)
_MOMENTS = st.one_of(st.none(), st.integers(0, 5000).map(lambda number: number / 4))


@st.composite
def clip_lists(draw: st.DrawFn) -> list[tuple[str, str, float | None, float | None]]:
    names = draw(st.lists(_NAMES, min_size=1, max_size=4, unique_by=str.casefold))
    paths = draw(st.lists(_PATHS, min_size=1, max_size=6, unique=True))
    rows = []
    for path in paths:
        start, length = draw(_MOMENTS), draw(_MOMENTS)
        end = None if length is None else (start or 0) + length + 1
        rows.append((path, draw(st.sampled_from(names)), start, end))
    return rows


def _moment(value: float | None, style: str) -> str:
    if value is None:
        return ""
    if style == "clock":
        return f"{int(value) // 3600:02d}:{int(value) // 60 % 60:02d}:{value % 60:06.3f}"
    return str(value).replace(".", "," if style == "comma" else ".")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=clip_lists(),
    separator=st.sampled_from(",;\t|"),
    encoding=st.sampled_from(("utf-8", "utf-8-sig", "utf-16", "utf-32")),
    line_end=st.sampled_from(("\n", "\r\n")),
    header=st.sampled_from(
        (
            ("path", "label", "start", "end"),
            ("Video Path", "class", "start_time", "end_time"),
            ("FILE", "tag", "begin", "stop"),
        )
    ),
    extras=st.sets(st.sampled_from(("sep", "index", "comments", "trailing", "unused"))),
    style=st.sampled_from(("point", "clock", "comma")),
)
def test_a_dialect_reads_as_what_was_written(
    tmp_path: Path,
    rows: list[tuple[str, str, float | None, float | None]],
    separator: str,
    encoding: str,
    line_end: str,
    header: tuple[str, str, str, str],
    extras: set[str],
    style: str,
) -> None:
    if style == "comma" and separator == ",":
        style = "point"
    columns = list(header)
    table = [[f"./{p}", label, _moment(s, style), _moment(e, style)] for p, label, s, e in rows]
    if "unused" in extras:
        columns, table = ["fps", *columns], [["30", *row] for row in table]
    if "index" in extras:
        columns, table = ["", *columns], [[str(number), *row] for number, row in enumerate(table)]
    if "trailing" in extras:
        columns, table = [*columns, ""], [[*row, ""] for row in table]
    text = io.StringIO(newline="")
    if "sep" in extras:
        text.write(f"sep={separator}{line_end}")
    if "comments" in extras:
        text.write(f"# path and label, as exported{line_end}{line_end}")
    writer = csv.writer(text, delimiter=separator, lineterminator=line_end)
    writer.writerow(columns)
    writer.writerows(table)
    path = tmp_path / "clips.csv"
    path.write_bytes(text.getvalue().encode(encoding))
    clips = read_manifest(path, check_files=False)
    assert rows_of(clips) == [(p, label, s, e) for p, label, s, e in rows]


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    paths=st.lists(_PATHS.filter(lambda path: path[0] not in '"#'), min_size=1, max_size=6, unique=True),
    labels=st.lists(st.integers(0, 3), min_size=6, max_size=6),
    form=st.sampled_from(("{} {}", "{},{}", "{}\t{}", "{} 25 {}")),
)
def test_a_list_without_header_reads_as_what_was_written(
    tmp_path: Path, paths: list[str], labels: list[int], form: str
) -> None:
    path = tmp_path / "list.txt"
    path.write_text("".join(form.format(name, label) + "\n" for name, label in zip(paths, labels, strict=False)))
    clips = read_manifest(path, ("w", "x", "y", "z"), check_files=False)
    assert [(entry.path.name, entry.label) for entry in clips] == list(zip(paths, labels, strict=False))


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    paths=st.lists(
        st.text(st.characters(blacklist_characters="/\0\\\r\n", blacklist_categories=["Cs"]), min_size=1, max_size=12),
        min_size=1,
        max_size=6,
        unique=True,
    ),
    data=st.data(),
)
def test_what_is_written_reads_back_whatever_the_paths(tmp_path: Path, paths: list[str], data: st.DataObject) -> None:
    entries = tuple(
        ClipEntry(
            tmp_path / f"{path}x",
            data.draw(st.integers(0, 1)),
            split=data.draw(st.sampled_from(("train", "val", "test"))),
            group=f"g{index}",
        )
        for index, path in enumerate(paths)
    )
    clips = ClipList(entries, ("clap", "wave"), tmp_path)
    write_manifest(tmp_path / "clips.csv", clips)
    again = read_manifest(tmp_path / "clips.csv", clips.classes, check_files=False)
    assert again.entries == entries
    assert "read as" not in again.note


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.binary(max_size=200)
    | st.text(st.sampled_from('path,label;\t #"\n\r0159.:fmp4a=|\u200b\x00'), max_size=120).map(str.encode)
)
def test_any_bytes_are_clips_or_one_error_of_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "any.csv"
    path.write_bytes(content)
    message = ""
    try:
        clips = read_manifest(path, check_files=False)
        assert len(clips)
    except ManifestError as error:
        message = str(error)
    assert "\n" not in message


def test_pairs_that_differ_in_case() -> None:
    assert same_but_for_case(["a", "b", "A"]) == ("a", "A")
    assert same_but_for_case(["a", "b"]) is None


def test_split_column_decides(folder: Path) -> None:
    rows = [("a.mp4", "train"), ("b.mp4", "Training"), ("my clip.mp4", "valid"), ("odd, name.mp4", "TEST")]
    path = write(folder, "path;label;subset\n" + "".join(f"{n};{i % 2};{s}\n" for i, (n, s) in enumerate(rows)))
    for split, names in (("train", {"a.mp4", "b.mp4"}), ("val", {"my clip.mp4"}), ("test", {"odd, name.mp4"})):
        clips = load_clips(path, split=split)  # type: ignore[arg-type]
        assert {entry.path.name for entry in clips} == names
        assert "by the column split" in clips.note
    whole = load_clips(path, split=None)
    assert len(whole) == 4
    assert len(split_clips(whole, "val")) == 1
