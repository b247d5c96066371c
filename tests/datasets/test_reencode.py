"""Re-encoding: what is kept, what is refused, and that a second run makes nothing again."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import video_fixtures as vf
from PIL import Image

from emim.data.manifest import ClipEntry, ClipList, read_manifest
from emim.data.video import VideoReader, open_video
from emim.datasets.reencode import INDEX_NAME, reencode
from emim.errors import ConfigError, DataError

SIZE = (96, 128)
_X264 = {"x264-params": vf.X264_GOP}


def smooth_frames(count: int, height: int = SIZE[0], width: int = SIZE[1]) -> vf.Frames:
    """frames_THWC: a bright square that moves over a gradient, with one dark corner to tell directions by."""
    y_H1, x_1W = np.mgrid[0:height, 0:width]
    frames_THWC = np.empty((count, height, width, 3), dtype=np.uint8)
    for t in range(count):
        frames_THWC[t] = (60 + 80 * x_1W / width + 40 * y_H1 / height)[..., None]
        frames_THWC[t, : height // 4, : width // 4] = (10, 20, 60)
        x = 4 * t % (width - 20)
        frames_THWC[t, height // 2 : height // 2 + 20, x : x + 20] = (250, 200, 120)
    return frames_THWC


def make(
    path: Path, *, count: int = 20, size: tuple[int, int] = SIZE, codec: str = "libx264", **options: object
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    extra = {"options": _X264} if codec == "libx264" else {}
    return vf.encode(path, codec, count=count, size=size, images=smooth_frames(count, *size), **extra, **options)  # type: ignore[arg-type]


def as_list(root: Path, *paths: Path) -> ClipList:
    return ClipList(tuple(ClipEntry(path, n % 2, row=n + 2) for n, path in enumerate(paths)), ("a", "b"), root)


def stamps(path: Path) -> list[Fraction]:
    with av.open(str(path)) as container:
        times = [frame.pts * frame.time_base for frame in container.decode(video=0)]
    return [moment - times[0] for moment in times]


def difference(old: VideoReader, new: VideoReader, index: int, new_index: int) -> float:
    """Mean difference of two readers' frames, the old one scaled to the new one's size."""
    picture = Image.fromarray(old.read([index])[0]).resize((new.width, new.height), Image.Resampling.BICUBIC)
    return float(np.abs(np.asarray(picture, np.float32) - new.read([new_index])[0]).mean())


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> tuple[ClipList, Path, list[Path]]:
    """A root with one file of each sort, and one outside of it."""
    base = tmp_path_factory.mktemp("mixed")
    root = base / "videos"
    paths = [
        make(root / "a" / "one.mp4", pts=vf.irregular_pts(20), time_base=Fraction(1, 90)),
        make(root / "b" / "one.mp4", rotation=90),
        make(root / "b" / "one.avi", codec="mpeg4", max_b_frames=2),
        make(root / "b" / "small.mkv", size=(48, 64)),
        make(base / "elsewhere" / "one.mp4"),
    ]
    shots = root / "a" / "shots"
    shots.mkdir()
    for number, frame_HWC in enumerate(smooth_frames(5, 50, 81)):
        Image.fromarray(frame_HWC).save(shots / f"{number}.png")
    return as_list(root, *paths, shots), base / "out", [*paths, shots]


@pytest.fixture(scope="module")
def result(mixed: tuple[ClipList, Path, list[Path]]):  # type: ignore[no-untyped-def]
    calls: list[tuple[int, int]] = []
    made = reencode(mixed[0], mixed[1], 48, workers=2, progress=lambda *call: calls.append(call))
    assert calls[0] == (0, 6)
    assert calls[-1] == (6, 6)
    return made


def test_the_new_list_mirrors_the_old_one(mixed, result) -> None:  # type: ignore[no-untyped-def]
    clip_list, out, paths = mixed
    assert (result.failed, result.encoded, result.copied, result.reused) == ((), 5, 1, 0)
    elsewhere = Path("_outside", *paths[4].parts[1:])
    names = ["a/one.mp4", "b/one.mp4", "b/one.avi.mp4", "b/small.mkv", str(elsewhere), "a/shots.mp4"]
    assert [entry.path for entry in result.clip_list] == [out / name for name in names]
    assert [entry.label for entry in result.clip_list] == [entry.label for entry in clip_list]
    assert [entry.row for entry in result.clip_list] == [entry.row for entry in clip_list]
    assert result.clip_list.classes == clip_list.classes
    assert result.clip_list.root == out
    assert not list(out.rglob("*.tmp"))


def test_frames_size_and_timing_are_kept(mixed, result) -> None:  # type: ignore[no-untyped-def]
    for source, entry in zip(mixed[2], result.clip_list, strict=True):
        with open_video(source) as old, open_video(entry.path) as new:
            assert new.num_frames == old.num_frames
            assert min(new.height, new.width) == 48
            assert abs(new.width / new.height - old.width / old.height) < 2 / 48
            assert new.fps == pytest.approx(old.fps, rel=1e-3)
            assert new.duration == pytest.approx(old.duration, abs=2e-3)
            for index in (0, old.num_frames // 2, old.num_frames - 1):
                same = difference(old, new, index, index)
                assert same < 4
                others = {index - 1, index + 1} & set(range(old.num_frames))
                assert all(same < difference(old, new, index, other) for other in others)


def test_uneven_time_stamps_are_kept(mixed, result) -> None:  # type: ignore[no-untyped-def]
    old, new = stamps(mixed[2][0]), stamps(result.clip_list.entries[0].path)
    assert len({b - a for a, b in itertools.pairwise(old)}) > 3
    assert [float(t) for t in new] == pytest.approx([float(t) for t in old], abs=1e-4)


def test_rotation_is_applied(mixed, result) -> None:  # type: ignore[no-untyped-def]
    with open_video(mixed[2][1]) as old, open_video(result.clip_list.entries[1].path) as new:
        assert old.rotation == 90
        assert new.rotation == 0
        assert new.height > new.width


def test_a_small_video_is_copied_as_it_is(mixed, result) -> None:  # type: ignore[no-untyped-def]
    assert result.clip_list.entries[3].path.read_bytes() == mixed[2][3].read_bytes()


def test_a_key_frame_every_second_and_no_sound(tmp_path: Path) -> None:
    source = make(tmp_path / "in" / "long.mp4", count=80)
    made = reencode(as_list(tmp_path / "in", source), tmp_path / "out", 48, workers=1).clip_list.entries[0].path
    with av.open(str(made)) as container:
        assert [stream.type for stream in container.streams] == ["video"]
        keys = [round(packet.pts * packet.time_base * 25) for packet in container.demux(video=0) if packet.is_keyframe]
    assert keys[0] == 0
    assert max(b - a for a, b in zip(keys, [*keys[1:], 80], strict=True)) <= 25


def test_a_second_run_makes_only_what_changed(tmp_path: Path) -> None:
    root, out = tmp_path / "in", tmp_path / "out"
    paths = [make(root / f"{name}.mp4", count=5) for name in "abc"]
    clip_list = as_list(root, *paths)
    first = reencode(clip_list, out, 48, workers=2)
    before = {entry.path: entry.path.stat().st_mtime_ns for entry in first.clip_list}
    again = reencode(clip_list, out, 48, workers=2)
    assert (again.reused, again.encoded) == (3, 0)
    assert again.clip_list == first.clip_list
    assert {entry.path: entry.path.stat().st_mtime_ns for entry in again.clip_list} == before

    make(paths[0], count=6)  # another content
    os.utime(paths[1], ns=(1, 1))  # another time of change
    changed = reencode(clip_list, out, 48, workers=1)
    assert (changed.reused, changed.encoded) == (1, 2)
    (out / "c.mp4").write_bytes(b"cut")
    other_list = as_list(root, paths[2])
    assert reencode(other_list, out, 48, workers=1).encoded == 1
    assert reencode(other_list, out, 40, workers=1).encoded == 1  # other settings
    assert set(json.loads((out / INDEX_NAME).read_text())["files"]) == {str(path) for path in paths}


def test_what_cannot_be_read_is_left_out_with_its_reason(tmp_path: Path) -> None:
    root, out = tmp_path / "in", tmp_path / "out"
    good = make(root / "good.mp4")
    cut, text, damaged = root / "cut.mp4", root / "text.mp4", root / "damaged.webm"
    cut.write_bytes(good.read_bytes()[:-2000])
    text.write_text("no video\n" * 20)
    data = bytearray(make(damaged, codec="libvpx").read_bytes())
    data[len(data) // 2 :] = bytes(len(data) - len(data) // 2)
    damaged.write_bytes(data)
    clip_list = as_list(root, cut, good, text, root / "missing.mp4", good)
    made = reencode(clip_list, out, 48, workers=1)
    assert [path.name for path, _ in made.failed] == ["cut.mp4", "text.mp4", "missing.mp4"]
    assert "no moov" in made.failed[0][1]
    assert "holds text" in made.failed[1][1]
    assert "No such file" in made.failed[2][1]
    assert [entry.row for entry in made.clip_list] == [3, 6]
    assert made.encoded == 1
    assert sorted(path.name for path in out.iterdir()) == ["good.mp4", INDEX_NAME]


def test_interlaced_frames_look_as_the_reader_gives_them(tmp_path: Path) -> None:
    source = vf.AWKWARD_CLIPS["h264_interlaced.mp4"](tmp_path / "x.mp4")
    made = reencode(as_list(tmp_path, source), tmp_path / "out", 32, workers=1)
    assert made.failed == ()
    with open_video(source) as old, open_video(made.clip_list.entries[0].path) as new:
        assert difference(old, new, 20, 20) < difference(old, new, 20, 21)


def test_names_that_would_meet_are_kept_apart(tmp_path: Path) -> None:
    root = tmp_path / "in"
    avi = make(root / "x.avi", count=4, codec="mpeg4")
    mp4 = make(root / "x.avi.mp4", count=6)
    made = reencode(as_list(root, avi, mp4), tmp_path / "out", 48, workers=2)
    counts = []
    for entry in made.clip_list:
        with open_video(entry.path) as reader:
            counts.append(reader.num_frames)
    assert counts == [4, 6]


def test_clip_ranges_stay(tmp_path: Path) -> None:
    make(tmp_path / "in" / "x.mp4")
    (tmp_path / "in" / "list.csv").write_text(
        "path,label,start,end\nx.mp4,a,0,5f\nx.mp4,b,5f,9f\n".replace("0,5f", "0f,5f")
    )
    clip_list = read_manifest(tmp_path / "in" / "list.csv")
    made = reencode(clip_list, tmp_path / "out", 48, workers=1)
    assert [(e.start, e.end, e.unit) for e in made.clip_list] == [(0, 5, "frame"), (5, 9, "frame")]
    assert {entry.path for entry in made.clip_list} == {tmp_path / "out" / "x.mp4"}


def test_folders_that_are_not_ours_are_refused(tmp_path: Path) -> None:
    source = make(tmp_path / "in" / "x.mp4", count=3)
    clip_list = as_list(tmp_path / "in", source)
    with pytest.raises(DataError, match="holds other things"):
        reencode(clip_list, tmp_path / "in", 48, workers=1)
    (tmp_path / "in" / INDEX_NAME).write_text('{"files": {}}')
    with pytest.raises(DataError, match="overwrite an original"):
        reencode(clip_list, tmp_path / "in", 48, workers=1)
    (tmp_path / "in" / INDEX_NAME).write_text("{")
    with pytest.raises(DataError, match="not readable"):
        reencode(clip_list, tmp_path / "in", 48, workers=1)
    for side in (47, 8):
        with pytest.raises(ConfigError, match="even number"):
            reencode(clip_list, tmp_path / "out", side, workers=1)
    with pytest.raises(ConfigError, match="workers"):
        reencode(clip_list, tmp_path / "out", 48, workers=0)


def test_a_process_that_dies_costs_one_video_and_leaves_nothing(tmp_path: Path) -> None:
    root, out = tmp_path / "in", tmp_path / "out"
    clip_list = as_list(root, *(make(root / f"{name}.mp4", count=4) for name in "abc"))

    def kill_once(done: int, total: int) -> None:
        if done == 1:
            (out / ".b.mp4.x1.tmp").touch()  # as a process leaves it that is killed while it writes
            for child in multiprocessing.active_children():
                child.kill()

    made = reencode(clip_list, out, 48, workers=1, progress=kill_once)
    assert [(path.name, "crashed" in reason) for path, reason in made.failed] == [("b.mp4", True)]
    assert sorted(path.name for path in out.iterdir()) == ["a.mp4", "c.mp4", INDEX_NAME]
    assert [entry.path.name for entry in made.clip_list] == ["a.mp4", "c.mp4"]


@pytest.mark.skipif(os.name != "posix", reason="sends a POSIX signal")
@pytest.mark.parametrize("kill", [False, True], ids=["interrupt", "kill"])
def test_an_interrupt_or_a_kill_leaves_whole_files_and_the_next_run_goes_on(tmp_path: Path, kill: bool) -> None:
    root, out = tmp_path / "in", tmp_path / "out"
    paths = [make(root / "0.mp4", count=4)]
    # A long one, so that the interrupt falls into its encoding.
    paths.append(make(root / "1.mp4", count=32, size=(480, 640), pts=range(32)))
    paths += [root / f"{number}.mp4" for number in range(2, 40)]
    for path in paths[2:]:
        path.write_bytes(paths[1].read_bytes())
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\nfrom pathlib import Path\nfrom emim.data.manifest import ClipEntry, ClipList\n"
        "from emim.datasets.reencode import reencode\n"
        "if __name__ == '__main__':\n"
        "    root = Path(sys.argv[1])\n"
        "    entries = tuple(ClipEntry(root / f'{n}.mp4', 0) for n in range(40))\n"
        "    reencode(ClipList(entries, ('a',), root), Path(sys.argv[2]), 400, workers=1)\n"
    )
    process = subprocess.Popen(
        [sys.executable, str(script), str(root), str(out)], stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        while not (out / "1.mp4").exists():
            assert process.poll() is None
            time.sleep(0.02)
        if kill:
            process.kill()  # the workers find out when they hand in what they are at
        else:
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to parent and workers
        _, errors = process.communicate(timeout=20)  # which waits for the workers, too
    finally:
        process.kill()
    assert process.returncode != 0
    if kill:
        assert errors == ""
    else:
        assert errors.count("Traceback") == 1  # the script's own KeyboardInterrupt
        assert errors.strip().endswith("KeyboardInterrupt")
    assert not list(out.glob(".*"))
    done = len(list(out.glob("*.mp4")))
    assert 2 <= done < 40
    resumed = reencode(as_list(root, *paths[: done + 1]), out, 400, workers=1)
    # Files without a line in the index are encoded again: after a kill, those of up to two seconds.
    assert resumed.reused >= (0 if kill else done - 1)
    assert resumed.reused + resumed.encoded + resumed.copied == done + 1
