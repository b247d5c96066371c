"""The examination of data sets: every kind of problem is found, and nothing in a clean list."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import video_fixtures as vf
import worker_fixtures
from PIL import Image

from emim.data.folder import load_clips
from emim.data.manifest import explain_missing, read_manifest
from emim.data.video.full_decode import FullDecode
from emim.datasets.doctor import ADVICE, DoctorReport, examine, list_videos, summary_statistics
from emim.datasets.video_check import check_video, loss_finding
from emim.errors import ConfigError, DataError
from emim.isolation import WorkerLoss, run_isolated

_X264 = {"x264-params": vf.X264_GOP}


def video(path: Path, seed: int, count: int = 12, codec: str = "libx264", **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    images = np.roll(vf.moving_frames(count), 5 * seed, axis=2)
    extra = {"options": _X264} if codec == "libx264" else {}
    return vf.encode(path, codec, count=count, images=images, **extra, **options)  # type: ignore[arg-type]


def hole(source: Path, target: Path, start: float, size: int) -> Path:
    """A copy of a file with zeros from a share of its length on."""
    data = bytearray(source.read_bytes())
    at = int(len(data) * start)
    data[at : at + size] = bytes(len(data[at : at + size]))
    target.write_bytes(data)
    return target


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> DoctorReport:
    """A manifest with a bit of everything, examined once; the row's name says what it is."""
    root = tmp_path_factory.mktemp("messy")
    clap, wave = root / "clap", root / "wave"
    for number in range(4):
        video(clap / f"good{number}.mp4", number)
        video(wave / f"good{number}.mp4", 10 + number)
    rows = [f"{c}/good{n}.mp4,{c},," for n in range(4) for c in ("clap", "wave")]

    good = (clap / "good0.mp4").read_bytes()
    (clap / "cut.mp4").write_bytes(good[:-3000])
    (clap / "empty.mp4").write_bytes(b"")
    (clap / "text.mp4").write_text("no video\n" * 50)
    (clap / "copy.mp4").write_bytes(good)
    hole(clap / "good1.mp4", clap / "hole.mp4", 0.55, 500)
    hole(video(clap / "whole.avi", 20, codec="mpeg4"), clap / "hole.avi", 0.8, 600)
    (wave / "conflict.mp4").write_bytes((clap / "good2.mp4").read_bytes())
    (clap / "shots").mkdir()
    (clap / "none").mkdir()
    for number in range(3):
        Image.fromarray(vf.moving_frames(3)[number]).save(clap / "shots" / f"{number}.png")
    (clap / "shots" / "2.png").write_bytes((clap / "shots" / "1.png").read_bytes()[:300])
    names = ("cut.mp4", "empty.mp4", "text.mp4", "copy.mp4", "hole.mp4", "whole.avi", "hole.avi", "shots", "none")
    rows += [f"clap/{name},clap,," for name in names]

    video(wave / "single.mp4", 1, count=1)
    video(wave / "label.mp4", 21)
    video(wave / "fast.mp4", 22, rate=Fraction(1000))
    video(wave / "uneven.mp4", 23, pts=vf.irregular_pts(12), time_base=Fraction(1, 90))
    rows += [f"wave/{name}.mp4,wave,," for name in ("conflict", "single", "fast", "uneven", "gone")]
    rows += ["wave/label.mp4,clap,,", "Wave/good1.mp4,wave,,", "wave/good1.avi,wave,,", "nowhere/good1.mp4,wave,,"]
    ranges = ("5,6", "0.2,3", "3f,4f", "0,0.48", "2f,40f")
    video(wave / "range.mp4", 24)
    rows += [f"wave/range.mp4,wave,{r}" for r in ranges]
    (root / "clips.csv").write_text("path,label,start,end\n" + "\n".join(rows) + "\n")
    calls: list[tuple[int, int]] = []
    clip_list = read_manifest(root / "clips.csv", check_files=False)
    found = examine(clip_list, workers=2, progress=lambda *call: calls.append(call))
    assert calls[-1][0] == calls[-1][1] == len({entry.path for entry in clip_list})
    return found


EXPECTED = {
    ("cut.mp4", "truncated", "error", "no moov box"),
    ("empty.mp4", "unreadable", "error", "zero bytes"),
    ("text.mp4", "unreadable", "error", "holds text"),
    ("none", "unreadable", "error", "no frame in this folder"),
    ("hole.mp4", "damaged", "error", "decode"),
    ("hole.avi", "damaged", "error", "near frame"),
    ("shots", "damaged", "error", "2.png"),
    ("copy.mp4", "duplicate", "warning", "clap/good0.mp4 (row 2)"),
    ("conflict.mp4", "conflict", "error", "labelled 'wave' here, 'clap' there"),
    ("single.mp4", "too short", "error", "1 frame"),
    ("fast.mp4", "fps", "warning", "1000 fps"),
    ("uneven.mp4", "variable fps", "note", "varies"),
    ("gone.mp4", "missing", "error", "no such file"),
    ("good1.mp4", "missing", "error", "another spelling there is wave/good1.mp4"),
    ("good1.mp4", "missing", "error", "no folder nowhere"),
    ("good1.avi", "missing", "error", "another extension there is wave/good1.mp4"),
    ("label.mp4", "label", "warning", "labelled 'clap', but lies in a folder 'wave'"),
    ("range.mp4", "range", "error", "5 s to 6 s holds no frame"),
    ("range.mp4", "range", "warning", "0.2 s to 3 s reaches beyond"),
    ("range.mp4", "range", "warning", "2f to 40f reaches beyond"),
    ("range.mp4", "too short", "error", "3f to 4f holds 1 frame"),
}


@pytest.mark.parametrize("expected", sorted(EXPECTED))
def test_every_kind_of_problem_is_found(report: DoctorReport, expected: tuple[str, str, str, str]) -> None:
    name, kind, severity, reason = expected
    found = [p for p in report.problems if (p.path.name, p.kind, p.severity) == (name, kind, severity)]
    assert any(reason in problem.reason for problem in found)
    assert all("\n" not in problem.reason and problem.advice for problem in found)


def test_nothing_else_is_reported(report: DoctorReport) -> None:
    assert len(report.problems) == len(EXPECTED)
    assert report.count("error") == sum(severity == "error" for _, _, severity, _ in EXPECTED)


def test_rows_of_the_manifest_are_named(report: DoctorReport) -> None:
    lines = (report.clip_list.source).read_text().splitlines()
    for problem in report.problems:
        assert problem.rows
        assert all(problem.path.name in lines[row - 1] for row in problem.rows)


def test_the_clean_list_leaves_out_errors_later_copies_and_all_of_a_conflict(report: DoctorReport) -> None:
    kept = [entry.path.relative_to(report.clip_list.root).as_posix() for entry in report.clean]
    good = [f"{c}/good{n}.mp4" for n in range(4) for c in ("clap", "wave")]
    good.remove("clap/good2.mp4")  # the same as wave/conflict.mp4
    others = ["clap/whole.avi", "wave/fast.mp4", "wave/uneven.mp4", "wave/label.mp4"]
    assert kept == good + others + ["wave/range.mp4"] * 3
    assert report.clean.classes == report.clip_list.classes


def test_statistics(report: DoctorReport) -> None:
    summary = summary_statistics(report.facts.values())
    assert summary["frames"] == {"min": 1, "median": 12, "max": 12}
    assert summary["fps"]["max"] == 1000
    assert summary["fps"]["median"] == 25
    assert summary["sizes"] == {"64x48": len(report.facts)}
    assert summary_statistics([]) == {"sizes": {}}
    assert report.hours == pytest.approx(sum(f.seconds for f in report.facts.values()) / 3600)


def test_the_same_stream_in_another_container_is_a_duplicate(tmp_path: Path) -> None:
    for name in ("clap/one.mp4", "clap/two.mkv"):
        video(tmp_path / name, 1)
    video(tmp_path / "wave/other.mp4", 2)
    found = examine(load_clips(tmp_path, split=None), workers=1)
    assert [(problem.path.name, problem.kind) for problem in found.problems] == [("two.mkv", "duplicate")]
    assert found.problems[0].rows == ()


def test_an_expected_frame_rate_and_length(tmp_path: Path) -> None:
    video(tmp_path / "a" / "one.mp4", 1)
    video(tmp_path / "b" / "two.mp4", 2, count=8, rate=Fraction(24))
    clip_list = load_clips(tmp_path, split=None)
    assert examine(clip_list, workers=1).problems == ()  # 24 and 25 are close enough to each other
    found = examine(clip_list, workers=1, expected_fps=24, min_frames=10).problems
    assert [(p.path.name, p.kind) for p in found] == [("two.mp4", "too short"), ("one.mp4", "fps")]
    with pytest.raises(ConfigError, match="min_frames"):
        examine(clip_list, workers=1, min_frames=0)
    with pytest.raises(ConfigError, match="expected fps"):
        examine(clip_list, workers=1, expected_fps=0)


@pytest.mark.parametrize("name", ["h264.mp4", "h264_vfr.mkv", "mpeg4_b.avi", "h265_open.ts", "vp9.webm", "mjpeg.avi"])
def test_whole_files_of_other_kinds_are_not_called_damaged(tmp_path: Path, name: str) -> None:
    path = vf.AWKWARD_CLIPS[name](tmp_path / name)
    found = check_video(path)
    assert found.decoded == vf.NUM_FRAMES
    assert [finding for finding in found.findings if finding.severity != "note"] == []


def test_a_full_decode_gives_the_frames_of_a_plain_one(tmp_path: Path) -> None:
    path = video(tmp_path / "x.mp4", 1)
    decode = FullDecode(path)
    frames_THWC = np.stack([frame.to_ndarray(format="rgb24") for frame in decode])
    np.testing.assert_array_equal(frames_THWC, vf.decode_all(path))
    assert (decode.frames, decode.packets, decode.messages) == (12, 12, [])
    assert decode.stamps is not None
    assert decode.declared_fps == 25


def test_videos_without_labels_are_listed(tmp_path: Path) -> None:
    for name in ("a.mp4", "deep/er/b.avi", ".hidden/c.mp4", "notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert [entry.path.name for entry in list_videos(tmp_path)] == ["a.mp4", "b.avi"]
    with pytest.raises(DataError, match="no video file"):
        list_videos(tmp_path / ".hidden" / "nothing")


def test_a_missing_file_next_to_nothing(tmp_path: Path) -> None:
    assert explain_missing(tmp_path / "x.mp4", tmp_path) == "no such file"


# --- processes that crash or hang ------------------------------------------------------------------


def results(items: Sequence[str], limit: Callable[[str], float] | None = None) -> dict[str, str]:
    outcomes = run_isolated(worker_fixtures.work, items, workers=2, time_limit=limit)
    return {items[at]: out.reason if isinstance(out, WorkerLoss) else out for at, out in outcomes}


def test_a_crash_or_a_hang_costs_one_item_only() -> None:
    found = results(["a", "hang", "b", "crash", "c", "leave", "d"], lambda item: 0.5 if item == "hang" else 60)
    assert {name: found[name] for name in "abcd"} == {name: name.upper() for name in "abcd"}
    assert found["hang"] == "took longer than 0.5 s"
    assert found["leave"] == "its process crashed (exit status 7)"
    assert "crashed" in found["crash"]


def test_a_video_that_takes_too_long_is_not_called_damaged(tmp_path: Path) -> None:
    path = vf.encode(tmp_path / "long.mp4", "mpeg4", count=1500, size=(120, 160), gop_size=12)
    report = examine(list_videos(tmp_path), workers=1, time_limit=lambda path: 1e-4)
    (problem,) = report.problems
    assert (problem.path, problem.kind, problem.severity) == (path, "too slow", "error")
    assert problem.reason == "was given up: decoding it took longer than 0.0001 s"
    assert "need not be damaged" in problem.advice


@pytest.mark.parametrize(
    ("loss", "kind", "reason"),
    [
        (WorkerLoss("took more processor time than its limit", "time"), "too slow", "decoding it took more processor"),
        (WorkerLoss("needs more memory than its limit", "memory"), "unreadable", "it, its process needs more memory"),
        (WorkerLoss("its process crashed (SIGSEGV)"), "unreadable", "while decoding it, its process crashed (SIGSEGV)"),
    ],
)
def test_lost_processes_in_words(loss: WorkerLoss, kind: str, reason: str) -> None:
    finding = loss_finding(loss)
    assert finding.kind == kind
    assert reason in finding.reason
    assert finding.kind in ADVICE


def test_no_items_and_no_workers() -> None:
    assert results([]) == {}
    with pytest.raises(ConfigError, match="workers"):
        list(run_isolated(worker_fixtures.work, ["a"], workers=0))
