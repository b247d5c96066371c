"""Each provider's layout, and the other forms it is found in: every clip comes out with its class."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import miniature
from emim.data.manifest import ClipList, read_manifest
from emim.data.video import open_video
from emim.datasets.prepare import PROVIDERS, Prepared, prepare
from emim.errors import ConfigError

Root = Callable[[str], Path]


def read(result: Prepared) -> dict[str, ClipList]:
    """The manifests, as any later command reads them."""
    return {split: read_manifest(part.manifest) for split, part in result.splits.items()}


def named(clips: ClipList) -> dict[str, str]:
    """Class by file name without suffix."""
    return {entry.path.stem: clips.classes[entry.label] for entry in clips}


def expected(name: str) -> dict[str, dict[str, str]]:
    """Class by file name without suffix, for each split, from how the miniatures are numbered."""
    held = PROVIDERS[name].splits[1]
    truth: dict[str, dict[str, str]] = {"train": {}, held: {}}
    for number in range(6):
        split = "train" if number < 4 else held
        if name in ("ssv1", "ssv2"):
            classes = miniature.SOMETHING if name == "ssv1" else sorted(miniature.SOMETHING)
            step = 7 if name == "ssv1" else 11
            truth[split] |= {str(step * (4 * number + k + 1)): c for k, c in enumerate(classes)}
        elif name == "kinetics":
            times = f"{10 * number + 3:06d}_{10 * number + 13:06d}"
            truth[split] |= {f"-k{k}_x{number}Ab_{times}": c for k, c in enumerate(miniature.KINETICS)}
        elif name == "diving48":
            dives = {k: " / ".join(parts) for k, parts in enumerate(miniature.DIVES) if k != 1}
            truth[split] |= {f"-d{k}v_xyz_{number:05d}": c for k, c in dives.items()}
        elif name == "ucf101":
            split = held if number < 2 else "train"  # split 1 tests on the first groups
            names = {c: c.replace("Handstand", "HandStand") for c in miniature.UCF}
            truth[split] |= {f"v_{names[c]}_g{number + 1:02d}_c01": c for c in miniature.UCF}
        elif name == "hmdb51":
            shifted = number + 1  # split 1 leaves out file 0
            truth[split] |= {f"A_film!_&_more_(1)_{c}_u_cm_np1_fr_med_{shifted}": c for c in miniature.HMDB}
    return truth


@pytest.mark.parametrize("name", [name for name in miniature.NAMES if name != "folder"])
def test_the_provided_layout(name: str, originals: Root, tmp_path: Path) -> None:
    result = prepare(name, originals(name), tmp_path / "out")
    manifests = read(result)
    assert {split: named(clips) for split, clips in manifests.items()} == expected(name)
    order = {
        "ssv1": miniature.SOMETHING,
        "ssv2": tuple(sorted(miniature.SOMETHING)),
        "kinetics": miniature.KINETICS,
        "diving48": tuple(" / ".join(parts) for parts in miniature.DIVES),
        "ucf101": miniature.UCF,
        "hmdb51": miniature.HMDB,
    }[name]
    assert result.classes == manifests["train"].classes == order
    assert (tmp_path / "out" / "classes.txt").read_text().splitlines() == list(order)
    report = json.loads((tmp_path / "out" / "prepare.json").read_text())
    for split, part in report["splits"].items():
        assert part["listed"] == part["found"] == len(manifests[split])
        assert part["missing"] == part["failed"] == part["repeated"] == []
    for clips in manifests.values():
        with open_video(clips.entries[0].path) as reader:
            assert 10 <= reader.num_frames <= 24
            assert (reader.height, reader.width) == (48, 64)


def test_published_numbers_are_those_of_the_papers() -> None:
    counts = {name: provider.counts.get(1) for name, provider in PROVIDERS.items()}
    assert counts["ssv1"] == {"train": 86017, "val": 11522}
    assert counts["ssv2"] == {"train": 168913, "val": 24777}
    assert counts["diving48"] == {"train": 15027, "test": 1970}
    assert counts["ucf101"] == {"train": 9537, "test": 3783}
    assert counts["hmdb51"] == {"train": 51 * 70, "test": 51 * 30}
    assert sum(PROVIDERS["ucf101"].counts[2].values()) == sum(PROVIDERS["ucf101"].counts[3].values()) == 13320
    assert [PROVIDERS[name].num_classes for name in PROVIDERS] == [174, 174, 400, 48, 101, 51, None]


# --- Something-Something ---------------------------------------------------------------------------


@pytest.mark.parametrize("place", [".", "labels", "annotations"])
def test_ssv2_with_the_long_file_names_and_the_providers_order(copy_of: Root, tmp_path: Path, place: str) -> None:
    root = copy_of("ssv2")
    names = sorted(miniature.SOMETHING, reverse=True)
    (root / "labels" / "labels.json").write_text(json.dumps({name: str(i) for i, name in enumerate(names)}))
    (root / place).mkdir(exist_ok=True)
    for part in ("train", "validation", "test", "labels"):
        (root / "labels" / f"{part}.json").rename(root / place / f"something-something-v2-{part}.json")
    result = prepare("ssv2", root, tmp_path / "out")
    assert result.classes == tuple(names)
    assert {split: named(clips) for split, clips in read(result).items()} == expected("ssv2")


@pytest.mark.parametrize("version", [1, 2])
def test_lists_of_frame_folders_take_their_own_class_file(originals: Root, tmp_path: Path, version: int) -> None:
    root = tmp_path / "frames"
    classes = sorted(miniature.SOMETHING)
    shutil.copytree(originals("ssv1") / "20bn-something-something-v1", root / f"20bn-something-something-v{version}")
    # The provider's class list alone must not give the order that the lists' indices mean.
    (root / "something-something-v1-labels.csv").write_text("\n".join(miniature.SOMETHING))
    truth = expected("ssv1")
    for split, file in (("train", "train_videofolder.txt"), ("val", f"somesomev{version}_rgb_validation_split.txt")):
        lines = [f"{stem} {12} {classes.index(name)}" for stem, name in truth[split].items()]
        (root / file).write_text("\n".join(lines))
    (root / "category.txt").write_text("\n".join(name.replace("something", "[something]") for name in classes))
    result = prepare(f"ssv{version}", root, tmp_path / "out")
    assert result.classes == tuple(classes)
    assert {split: named(clips) for split, clips in read(result).items()} == truth
    assert "category.txt" in result.notes[0]


def test_the_providers_files_come_before_lists(copy_of: Root, tmp_path: Path) -> None:
    root = copy_of("ssv1")
    for split in ("train", "val"):
        (root / f"{split}_videofolder.txt").write_text("7 12 3\n")
    (root / "category.txt").write_text("\n".join(sorted(miniature.SOMETHING)))
    assert prepare("ssv1", root, tmp_path / "out").classes == miniature.SOMETHING


# --- Kinetics --------------------------------------------------------------------------------------


def into_class_folders(root: Path, spaces: str) -> None:
    for split, truth in expected("kinetics").items():
        for stem, name in truth.items():
            folder = root / split / name.replace(" ", spaces)
            folder.mkdir(exist_ok=True)
            (root / split / f"{stem}.mp4").rename(folder / f"{stem}.mp4")


@pytest.mark.parametrize("spaces", [" ", "_"])
def test_kinetics_in_class_folders(copy_of: Root, tmp_path: Path, spaces: str) -> None:
    root = copy_of("kinetics")
    into_class_folders(root, spaces)
    (root / "annotations" / "val.csv").rename(root / "validate.csv")
    result = prepare("kinetics", root, tmp_path / "out")
    assert {split: named(clips) for split, clips in read(result).items()} == expected("kinetics")
    assert result.classes == miniature.KINETICS


def test_kinetics_prefers_a_replacement_and_accepts_other_names(copy_of: Root, tmp_path: Path) -> None:
    root = copy_of("kinetics")
    replaced, plain, repacked = sorted((root / "train").iterdir())[:3]
    better = root / "replacement" / "replacement_for_corrupted_k400" / replaced.name
    better.parent.mkdir(parents=True)
    shutil.copy(replaced, better)
    plain.rename(plain.with_name(f"{plain.stem[:-14]}.mp4"))
    repacked.rename(repacked.with_suffix(".mkv"))
    entries = read(prepare("kinetics", root, tmp_path / "out"))["train"].entries
    found = {entry.path.relative_to(root).as_posix() for entry in entries}
    assert len(found) == 16
    assert better.relative_to(root).as_posix() in found
    assert f"train/{replaced.name}" not in found
    assert {f"train/{plain.stem[:-14]}.mp4", f"train/{repacked.stem}.mkv"} <= found


def write_lists(root: Path, order: tuple[str, ...], separator: str, place: str) -> None:
    shutil.rmtree(root / "annotations")
    for split, truth in expected("kinetics").items():
        lines = [
            f"{place.format(root=root, split=split, name=name)}{stem}.mp4{separator}{order.index(name)}"
            for stem, name in truth.items()
        ]
        (root / f"{split}.csv").write_text("\n".join(lines))


@pytest.mark.parametrize("separator", [",", " ", "\t"])
@pytest.mark.parametrize("place", ["", "{split}/", "{root}/{split}/"])
def test_kinetics_lists_with_a_class_file_in_its_own_order(
    copy_of: Root, tmp_path: Path, separator: str, place: str
) -> None:
    root = copy_of("kinetics")
    order = tuple(reversed(miniature.KINETICS))
    write_lists(root, order, separator, place)
    lines = [f"{name}\t{index}" for index, name in enumerate(order)]
    (root / "kinetics_400_categroies.txt").write_text("\n".join(reversed(lines)))
    result = prepare("kinetics", root, tmp_path / "out")
    assert result.classes == order
    assert {split: named(clips) for split, clips in read(result).items()} == expected("kinetics")


def test_kinetics_lists_without_a_class_file(copy_of: Root, tmp_path: Path) -> None:
    root = copy_of("kinetics")
    order = tuple(reversed(miniature.KINETICS))
    write_lists(root, order, " ", "")
    result = prepare("kinetics", root, tmp_path / "indices")
    assert result.classes == ("0", "1", "2", "3")
    assert "named by their indices" in result.notes[0]
    for split, clips in read(result).items():
        assert {stem: order[int(name)] for stem, name in named(clips).items()} == expected("kinetics")[split]

    into_class_folders(root, "_")
    (root / "annotations").mkdir()
    write_lists(root, order, " ", "{name}/")
    for path in root.glob("*.csv"):
        path.write_text(path.read_text().replace("massaging person's head", "massaging_person's_head"))
        path.write_text(
            path.read_text().replace("passing American football (in game)", "passing_American_football_(in_game)")
        )
    result = prepare("kinetics", root, tmp_path / "folders")
    assert result.classes == tuple(name.replace(" ", "_") for name in order)


# --- Diving48, UCF101, HMDB51, folder --------------------------------------------------------------


@pytest.mark.parametrize("place", ["rgb", ".", "videos"])
def test_diving48_frames_are_a_range_of_the_clip_cut_to_its_length(copy_of: Root, tmp_path: Path, place: str) -> None:
    root = copy_of("diving48")
    (root / place).mkdir(exist_ok=True)
    for path in (root / "rgb").iterdir():
        path.rename(root / place / path.name)
    annotations = json.loads((root / "Diving48_V2_train.json").read_text())
    lengths = [entry["end_frame"] for entry in annotations]
    annotations[0]["start_frame"], annotations[0]["end_frame"] = 2, 7
    annotations[1]["end_frame"] += 100
    (root / "Diving48_V2_train.json").write_text(json.dumps(annotations))
    clips = read(prepare("diving48", root, tmp_path / "out"))["train"]
    ranges = []
    for entry in clips:
        with open_video(entry.path) as reader:
            ranges.append(entry.frame_range(reader.num_frames, reader.fps))
    assert ranges == [(2, 7), *((0, length) for length in lengths[1:])]
    assert clips.counts()["Back / 15som / 15Twis / FREE"] == 0


def test_the_official_splits_of_ucf101_test_every_clip_once(originals: Root, tmp_path: Path) -> None:
    tested: list[str] = []
    for fold in (1, 2, 3):
        parts = read(prepare("ucf101", originals("ucf101"), tmp_path / str(fold), fold=fold))
        assert not set(named(parts["train"])) & set(named(parts["test"]))
        assert len(parts["train"]) == 12
        tested += named(parts["test"])
    assert len(tested) == len(set(tested)) == 18


def test_ucf101_handstands_under_either_spelling(copy_of: Root, tmp_path: Path) -> None:
    root = copy_of("ucf101")
    for path in (root / "UCF-101" / "HandstandPushups").iterdir():
        path.rename(path.with_name(path.name.replace("HandStand", "Handstand")))
    (root / "UCF-101").rename(root / "videos")
    assert read(prepare("ucf101", root, tmp_path / "out"))["train"].counts() == dict.fromkeys(miniature.UCF, 4)


def test_hmdb51_leaves_unused_clips_out(originals: Root, tmp_path: Path) -> None:
    unused = {}
    for fold in (1, 2, 3):
        parts = read(prepare("hmdb51", originals("hmdb51"), tmp_path / str(fold), fold=fold))
        used = {stem for clips in parts.values() for stem in named(clips)}
        (unused[fold],) = {f"A_film!_&_more_(1)_wave_u_cm_np1_fr_med_{n}" for n in range(7)} - used
    assert len(set(unused.values())) == 3


def test_a_folder_of_classes_keeps_its_splits_or_gets_one(copy_of: Root, tmp_path: Path) -> None:
    root = copy_of("folder")
    result = prepare("folder", root, tmp_path / "own")
    assert {split: part.found for split, part in result.splits.items()} == {"train": 12, "val": 6}
    shutil.copytree(root / "val", root / "test")
    shutil.rmtree(root / "val")
    parts = read(prepare("folder", root, tmp_path / "shared"))
    assert {split: len(clips) for split, clips in parts.items()} == {"train": 9, "val": 3, "test": 6}
    assert not {entry.path for entry in parts["train"]} & {entry.path for entry in parts["val"]}


def test_folds_and_splits_that_a_data_set_does_not_have(originals: Root, tmp_path: Path) -> None:
    for name, options in (("ssv2", {"fold": 2}), ("ucf101", {"fold": 4}), ("folder", {"fold": 1})):
        with pytest.raises(ConfigError, match=r"fold \d: "):
            prepare(name, originals(name), tmp_path / "out", **options)
    with pytest.raises(ConfigError, match="split test: Something-Something V2 has labels for train, val"):
        prepare("ssv2", originals("ssv2"), tmp_path / "out", splits=["test"])
