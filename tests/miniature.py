"""Data sets in miniature: the true layout and annotation formats of each provider, with a few tiny encoded clips.

`build(name, root)` writes one below `root`. Every class has four training and two validation or test clips of
64 x 48 pixels and 10 to 24 frames, in which a texture moves in a direction of its class. Nothing here is from the
real data sets but the forms of names.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from video_fixtures import HEIGHT, WIDTH, encode

TRAIN, HELD_OUT = 4, 2  # clips of a class
X264 = {"preset": "ultrafast", "x264-params": "log-level=none"}
VP9 = {"deadline": "realtime", "cpu-used": "8"}

# As in the provider's list of V1, not in the order of the alphabet.
SOMETHING = (
    "Turning something upside down",
    "Pushing something from left to right",
    'Putting something, something and something on the "table"',
    "Approaching something with your camera",
)
KINETICS = ("abseiling", "massaging person's head", "passing American football (in game)", "zumba")
DIVES = (
    ("Back", "15som", "05Twis", "FREE"),
    ("Back", "15som", "15Twis", "FREE"),
    ("Forward", "35som", "NoTwis", "PIKE"),
    ("Inward", "15som", "NoTwis", "PIKE"),
    ("Reverse", "Dive", "NoTwis", "TUCK"),
)
DIVES_WITHOUT_CLIPS = (1,)
UCF = ("ApplyEyeMakeup", "HandstandPushups", "YoYo")
HMDB = ("brush_hair", "kick_ball", "wave")
FOLDER = ("clap", "walk", "wave")


def build(name: str, root: Path) -> Path:
    """Write the data set `name` in miniature; returns `root`.

    Args:
        name: ssv1, ssv2, kinetics, diving48, ucf101, hmdb51 or folder.
        root: a new folder.
    """
    root.mkdir(parents=True)
    _BUILDERS[name](root)
    return root


def clip(path: Path, label: int, number: int) -> int:
    """Write a clip, as a folder of frames where `path` has no suffix; returns its number of frames."""
    frames_THWC = moving_texture(label, number)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix:
        codec = {".webm": "libvpx", ".avi": "mpeg4"}.get(path.suffix, "libx264")
        options = {"libx264": X264, "libvpx": VP9}.get(codec)
        encode(path, codec, images=frames_THWC, options=options)
        return len(frames_THWC)
    path.mkdir()
    for at, frame_HWC in enumerate(frames_THWC, start=1):
        Image.fromarray(frame_HWC).save(path / f"{at:05d}.jpg")
    return len(frames_THWC)


def moving_texture(label: int, number: int) -> npt.NDArray[np.uint8]:
    """frames_THWC: a texture, another one for each number, that moves in the direction of the class."""
    rng = np.random.default_rng(1000 * label + number)
    texture_HWC = rng.integers(0, 256, (HEIGHT // 8, WIDTH // 8, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    angle = 2 * np.pi * label / 5
    dy, dx = 4 * np.sin(angle), 4 * np.cos(angle)
    count = 10 + (5 * label + 3 * number) % 15
    return np.stack([np.roll(texture_HWC, (round(t * dy), round(t * dx)), (0, 1)) for t in range(count)])


def _parts(num_classes: int) -> list[tuple[str, int, int]]:
    """(split, class, number within the class) of every clip, classes mixed."""
    numbers = range(TRAIN + HELD_OUT)
    return [("train" if n < TRAIN else "val", label, n) for n in numbers for label in range(num_classes)]


def _write_json(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def _write_lines(path: Path, lines: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _ssv1(root: Path) -> None:
    lines: dict[str, list[str]] = {"train": [], "val": []}
    for at, (split, label, number) in enumerate(_parts(len(SOMETHING)), start=1):
        identity = 7 * at
        clip(root / "20bn-something-something-v1" / str(identity), label, number)
        lines[split].append(f"{identity};{SOMETHING[label]}")
    prefix = "something-something-v1"
    _write_lines(root / f"{prefix}-train.csv", lines["train"])
    _write_lines(root / f"{prefix}-validation.csv", lines["val"])
    _write_lines(root / f"{prefix}-test.csv", ["900001", "900002"])
    _write_lines(root / f"{prefix}-labels.csv", list(SOMETHING))


def _ssv2(root: Path) -> None:
    entries: dict[str, list[dict[str, object]]] = {"train": [], "val": []}
    classes = sorted(SOMETHING)
    for at, (split, label, number) in enumerate(_parts(len(classes)), start=1):
        identity = str(11 * at)
        clip(root / "20bn-something-something-v2" / f"{identity}.webm", label, number)
        template = classes[label].replace("something", "[something]")
        entry = {"id": identity, "label": classes[label].lower().replace("something", "a cup")}
        entries[split].append({**entry, "template": template, "placeholders": ["a cup"] * template.count("[")})
    _write_json(root / "labels" / "train.json", entries["train"])
    _write_json(root / "labels" / "validation.json", entries["val"])
    _write_json(root / "labels" / "test.json", [{"id": "900001"}, {"id": "900002"}])
    _write_json(root / "labels" / "labels.json", {name: str(index) for index, name in enumerate(classes)})


def _kinetics(root: Path) -> None:
    lines: dict[str, list[str]] = {
        split: ["label,youtube_id,time_start,time_end,split,is_cc"] for split in ("train", "val")
    }
    for split, label, number in _parts(len(KINETICS)):
        identity, start = f"-k{label}_x{number}Ab", 10 * number + 3
        clip(root / split / f"{identity}_{start:06d}_{start + 10:06d}.mp4", label, number)
        lines[split].append(f'"{KINETICS[label]}",{identity},{start},{start + 10},{split},0')
    for split in lines:
        _write_lines(root / "annotations" / f"{split}.csv", lines[split])


def _diving48(root: Path) -> None:
    entries: dict[str, list[dict[str, object]]] = {"train": [], "val": []}
    for split, label, number in _parts(len(DIVES)):
        if label not in DIVES_WITHOUT_CLIPS:
            name = f"-d{label}v_xyz_{number:05d}"
            frames = clip(root / "rgb" / f"{name}.mp4", label, number)
            entries[split].append({"vid_name": name, "label": label, "start_frame": 0, "end_frame": frames})
    _write_json(root / "Diving48_V2_train.json", entries["train"])
    _write_json(root / "Diving48_V2_test.json", entries["val"])
    _write_json(root / "Diving48_vocab.json", DIVES)


def _ucf101(root: Path) -> None:
    """Six groups a class; official split N tests on two of them."""
    groups = range(1, TRAIN + HELD_OUT + 1)
    places: dict[tuple[int, int], str] = {}
    for label, name in enumerate(UCF):
        for group in groups:
            file = f"v_{name.replace('Handstand', 'HandStand')}_g{group:02d}_c01.avi"
            places[label, group] = f"{name}/{file}"
            clip(root / "UCF-101" / name / file, label, group)
    lists = root / "ucfTrainTestlist"
    _write_lines(lists / "classInd.txt", [f"{index} {name}" for index, name in enumerate(UCF, start=1)])
    for fold in (1, 2, 3):
        test = {2 * fold - 1, 2 * fold}
        train_lines = [f"{place} {label + 1}" for (label, group), place in places.items() if group not in test]
        test_lines = [place for (_, group), place in places.items() if group in test]
        _write_lines(lists / f"trainlist{fold:02d}.txt", train_lines)
        _write_lines(lists / f"testlist{fold:02d}.txt", test_lines)


def _hmdb51(root: Path) -> None:
    """Seven files a class: four for training, two for testing, one that no split uses."""
    for label, name in enumerate(HMDB):
        files = [f"A_film!_&_more_(1)_{name}_u_cm_np1_fr_med_{number}.avi" for number in range(TRAIN + HELD_OUT + 1)]
        for number, file in enumerate(files):
            clip(root / name / file, label, number)
        for fold in (1, 2, 3):
            parts = np.roll([1] * TRAIN + [2] * HELD_OUT + [0], fold)
            lines = [f"{file} {part} " for file, part in zip(files, parts, strict=True)]
            _write_lines(root / "testTrainMulti_7030_splits" / f"{name}_test_split{fold}.txt", lines)


def _folder(root: Path) -> None:
    for split, label, number in _parts(len(FOLDER)):
        clip(root / split / FOLDER[label] / f"{number}.mp4", label, number)


_BUILDERS: dict[str, Callable[[Path], None]] = {
    "ssv1": _ssv1,
    "ssv2": _ssv2,
    "kinetics": _kinetics,
    "diving48": _diving48,
    "ucf101": _ucf101,
    "hmdb51": _hmdb51,
    "folder": _folder,
}
NAMES = tuple(_BUILDERS)
