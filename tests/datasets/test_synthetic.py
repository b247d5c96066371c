"""Generated clips: what they show, that single frames do not tell, and the files."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import pytest

from emim.datasets.synthetic import (
    CLASSES,
    MOTIONS,
    ClipOptions,
    Dimension,
    RenderedClip,
    composite_clip,
    render_clip,
    write_dataset,
)
from emim.datasets.synthetic.motion import draw_geometry, draw_path
from emim.errors import ConfigError, DataError, UnknownNameError

Floats = npt.NDArray[np.floating]

SMALL = ClipOptions(num_frames=8, height=48, width=48)
SOLO = ClipOptions(solo_share=1.0)
SINGLE_MOTION = [label for label in CLASSES if MOTIONS[label].dimension is not Dimension.SEPARATION]
PAIR = ["approaching", "parting"]

CLIPS = Path(__file__).parents[2] / "../shared/clips"


def coordinate(clip: RenderedClip, dimension: Dimension) -> Floats:
    """The course of one state dimension, from the tracks: pixels, log of the scale, or radians."""
    tracks = clip.tracks
    if dimension is Dimension.SCALE:
        return np.log(tracks.scale_TO[:, 0])
    if dimension is Dimension.ANGLE:
        return tracks.angle_TO[:, 0]
    if dimension is Dimension.SEPARATION:
        return np.linalg.norm(np.diff(tracks.centres_TO2, axis=1), axis=2)[:, 0]
    return tracks.centres_TO2.mean(axis=1)[:, dimension]


def test_classes_are_sorted_and_eleven() -> None:
    assert len(CLASSES) == 11
    assert list(CLASSES) == sorted(CLASSES)


def test_unknown_class_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="clockwise"):
        render_clip("clockwize", seed=0)


@pytest.mark.parametrize(
    "bad",
    [
        {"num_frames": 1},
        {"height": 51},
        {"width": 8},
        {"fps": 0},
        {"solo_share": 1.5},
        {"upright_share": -0.1},
    ],
)
def test_bad_options_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(bad))):
        ClipOptions(**bad)  # type: ignore[arg-type]


def test_same_seed_same_clip_other_seed_other_clip() -> None:
    one, again, other = (render_clip("left", seed=s, options=SMALL) for s in (5, 5, 6))
    assert one.frames_THWC.shape == (8, 48, 48, 3)
    assert one.frames_THWC.dtype == np.uint8
    np.testing.assert_array_equal(one.frames_THWC, again.frames_THWC)
    np.testing.assert_array_equal(one.tracks.centres_TO2, again.tracks.centres_TO2)
    assert one.fps == again.fps
    assert (one.frames_THWC != other.frames_THWC).mean() > 0.5


def test_vary_draws_lengths_shapes_and_rates() -> None:
    clips = [render_clip("up", seed=s, options=replace(SMALL, vary=True)) for s in range(12)]
    lengths = {len(clip.frames_THWC) for clip in clips}
    assert len(lengths) > 4
    assert min(lengths) >= 12
    assert max(lengths) <= 48
    shapes = {clip.frames_THWC.shape[1:3] for clip in clips}
    assert len(shapes) > 4
    assert all(side % 2 == 0 for shape in shapes for side in shape)
    assert all(0.48 < height / width < 2.1 for height, width in shapes)
    assert len({clip.fps for clip in clips}) > 2


@pytest.mark.parametrize("label", CLASSES)
def test_tracks_move_in_the_dimension_of_the_class_only(label: str) -> None:
    motion = MOTIONS[label]
    least = {
        Dimension.HORIZONTAL: 0.14 * 112,
        Dimension.VERTICAL: 0.14 * 112,
        Dimension.SCALE: np.log(1.34),
        Dimension.ANGLE: np.radians(39),
        Dimension.SEPARATION: 0.19 * 112,
    }
    # A rounded or shaken centre may be off by this much.
    slack = {dimension: 6.0 if dimension not in (Dimension.SCALE, Dimension.ANGLE) else 1e-9 for dimension in least}
    for seed in range(12):
        clip = render_clip(label, seed=seed, options=ClipOptions(num_frames=6))
        for dimension in Dimension:
            course_T = coordinate(clip, dimension)
            if dimension is motion.dimension:
                assert motion.sign * (course_T[-1] - course_T[0]) > least[dimension] - slack[dimension]
                assert (motion.sign * np.diff(course_T) > -slack[dimension]).all()
            else:
                assert np.ptp(course_T) <= slack[dimension]


def test_objects_stay_in_the_frame_and_pairs_do_not_cross() -> None:
    for seed in range(60):
        clip = render_clip(CLASSES[seed % 11], seed=seed, options=SMALL)
        tracks = clip.tracks
        assert (tracks.centres_TO2 > 0).all()
        assert (tracks.centres_TO2 < 48).all()
        gap_T = coordinate(clip, Dimension.SEPARATION)
        assert (gap_T > 0.8 * tracks.radius_TO.sum(axis=1)).all()
        line_T2 = np.diff(tracks.centres_TO2, axis=1)[:, 0]
        assert (line_T2 @ line_T2[0] > 0).all()


def test_object_count_does_not_depend_on_the_class_by_default() -> None:
    for label in CLASSES:
        for seed in range(5):
            clip = render_clip(label, seed=seed, options=replace(SMALL, num_frames=2))
            assert clip.tracks.radius_TO.shape[1] == 2


def test_solo_share_leaves_pairs_alone() -> None:
    options = replace(SMALL, num_frames=2, solo_share=0.5)
    counts = {
        label: [render_clip(label, seed=s, options=options).tracks.radius_TO.shape[1] for s in range(30)]
        for label in ("left", "still", "parting")
    }
    assert set(counts["parting"]) == {2}
    assert counts["left"] == counts["still"]
    assert 7 <= counts["left"].count(1) <= 23


def test_upright_objects_are_upright_unless_they_rotate() -> None:
    options = replace(SMALL, upright_share=1.0)
    quarter_turns_TO = render_clip("left", seed=3, options=options).tracks.angle_TO / (np.pi / 2)
    np.testing.assert_allclose(quarter_turns_TO, np.round(quarter_turns_TO), atol=1e-9)
    angle_TO = render_clip("clockwise", seed=3, options=options).tracks.angle_TO
    np.testing.assert_allclose(angle_TO[0] / (np.pi / 2), np.round(angle_TO[0] / (np.pi / 2)), atol=1e-9)
    assert np.ptp(angle_TO, axis=0).min() > np.radians(39)


# What the pixels show, against a black ground with the ground truth at hand.

RAMP = np.repeat(np.linspace(60, 255, 64).astype(np.uint8)[None, :, None], 64, axis=0).repeat(3, axis=2)
BLACK = np.zeros((64, 64, 3), dtype=np.uint8)


@pytest.mark.parametrize("label", SINGLE_MOTION)
def test_pixels_follow_the_tracks(label: str) -> None:
    """Centroid, area and lightest side of one object, measured in the frames."""
    checked = 0
    for seed in range(10):
        clip = composite_clip(label, [RAMP], BLACK, seed=seed, options=SOLO)
        tracks = clip.tracks
        reach_TO1 = 1.6 * tracks.radius_TO[..., None]
        if (tracks.centres_TO2 < reach_TO1).any() or (tracks.centres_TO2 > 112 - reach_TO1).any():
            continue  # cut by the edge: moments would be off
        checked += 1
        light_THW = clip.frames_THWC.astype(np.float64).mean(axis=3)
        mask_THW = light_THW > 30
        y_HW, x_HW = np.mgrid[:112, :112] + 0.5
        area_T = mask_THW.sum(axis=(1, 2))
        axes = (x_HW, y_HW)
        centre_T2 = np.stack([(mask_THW * a).sum(axis=(1, 2)) / area_T for a in axes], axis=1)
        np.testing.assert_allclose(centre_T2, tracks.centres_TO2[:, 0], atol=0.8)
        area_ratio = area_T[-1] / area_T[0]
        assert area_ratio == pytest.approx((tracks.scale_TO[-1, 0] / tracks.scale_TO[0, 0]) ** 2, rel=0.2)
        # The texture lightens to the object's right, so the slope of the light turns as the object does.
        inner_THW = mask_THW.copy()
        for shift, axis in ((-2, 1), (2, 1), (-2, 2), (2, 2)):
            inner_THW &= np.roll(mask_THW, shift, axis)
        error_T = np.empty(len(area_T))
        for t, inner_HW in enumerate(inner_THW):
            plane_P3 = np.stack([x_HW[inner_HW], y_HW[inner_HW], np.ones(inner_HW.sum())], axis=1)
            slope_3 = np.linalg.lstsq(plane_P3, light_THW[t][inner_HW])[0]
            turned = np.arctan2(slope_3[1], slope_3[0]) - tracks.angle_TO[t, 0]
            error_T[t] = np.angle(np.exp(1j * turned))
        assert np.abs(error_T).max() < np.radians(20)
    assert checked >= 2


@pytest.mark.parametrize("label", PAIR)
def test_pixels_of_pairs_follow_the_tracks(label: str) -> None:
    red, green = np.zeros((2, 32, 32, 3), dtype=np.uint8)
    red[..., 0] = green[..., 1] = 255
    for seed in range(4):
        clip = composite_clip(label, [red, green], BLACK, seed=seed)
        y_HW, x_HW = np.mgrid[:112, :112] + 0.5
        seen_TO2 = np.empty_like(clip.tracks.centres_TO2)
        for k in range(2):
            mask_THW = clip.frames_THWC[..., k] > 128
            for axis, position_HW in enumerate((x_HW, y_HW)):
                seen_TO2[:, k, axis] = (mask_THW * position_HW).sum(axis=(1, 2)) / mask_THW.sum(axis=(1, 2))
        gap_T = np.linalg.norm(seen_TO2[:, 1] - seen_TO2[:, 0], axis=1)
        true_T = coordinate(clip, Dimension.SEPARATION)
        assert np.sign(gap_T[-1] - gap_T[0]) == MOTIONS[label].sign
        assert gap_T[-1] - gap_T[0] == pytest.approx(true_T[-1] - true_T[0], abs=0.08 * 112)


def test_composites_of_real_frames() -> None:
    files = sorted(CLIPS.glob("*.mp4"))[:3]
    if len(files) < 3:
        pytest.skip(f"needs three mp4 files in {CLIPS}")
    images = []
    for file in files:
        with av.open(str(file)) as container:
            images.append(next(container.decode(video=0)).to_ndarray(format="rgb24"))
    one, again = (composite_clip("right", images[:2], images[2], seed=9) for _ in range(2))
    np.testing.assert_array_equal(one.frames_THWC, again.frames_THWC)
    assert one.frames_THWC.std() > 10
    assert (one.tracks.centres_TO2[-1] - one.tracks.centres_TO2[0])[:, 0].min() > 10


def test_composite_refuses_what_is_no_image() -> None:
    with pytest.raises(DataError, match="object_textures is empty"):
        composite_clip("left", [], BLACK, seed=0)
    with pytest.raises(DataError, match="float64"):
        composite_clip("left", [BLACK], BLACK.astype(np.float64), seed=0)  # type: ignore[arg-type]


# Single frames tell nothing; frames together do.


def ridge_accuracy(features_NF: Floats, labels_N: npt.NDArray[np.int64], train: int, penalty: float) -> float:
    """Share right from row `train` on, of a linear classifier fitted in closed form to the rows before."""
    mean_F, spread_F = features_NF[:train].mean(axis=0), features_NF[:train].std(axis=0) + 1e-6
    x_NF = np.concatenate([(features_NF - mean_F) / spread_F, np.ones((len(features_NF), 1))], axis=1)
    target_NL = np.eye(len(CLASSES))[labels_N]
    gram_FF = x_NF[:train].T @ x_NF[:train] + penalty * train * np.eye(x_NF.shape[1])
    weight_FL = np.linalg.solve(gram_FF, x_NF[:train].T @ target_NL[:train])
    return float(((x_NF[train:] @ weight_FL).argmax(axis=1) == labels_N[train:]).mean())


def chance_bound(trials: int, sigmas: float = 3.0) -> float:
    chance = 1 / len(CLASSES)
    return chance + sigmas * float(np.sqrt(chance * (1 - chance) / trials))


def test_linear_probe_on_single_frames_is_near_chance_and_on_motion_is_not() -> None:
    """1,100 clips to fit, 550 to test; chance is 9.1 %, the bound for single frames 12.8 %."""
    train, test = 1100, 550
    labels_N = np.arange(train + test) % len(CLASSES)
    rng = np.random.default_rng(7)
    frames, motions = [], []
    for i, label in enumerate(labels_N):
        clip = render_clip(CLASSES[label], seed=10_000 + i, options=SMALL)
        # Thumbnails of 16 x 16 in [0, 1].
        thumbs_THWC = clip.frames_THWC.reshape(8, 16, 3, 16, 3, 3).mean(axis=(2, 4)) / 255
        frames.append(thumbs_THWC[rng.integers(8)].ravel())
        # Motion energy: products of temporal and spatial differences have the sign of the motion.
        grey_THW = thumbs_THWC.mean(axis=3)
        change_THW = np.diff(grey_THW, axis=0)[:, 1:-1, 1:-1]
        slope_y_THW, slope_x_THW = np.gradient(grey_THW[:-1], axis=(1, 2))
        scale = change_THW.std() * slope_x_THW.std() + 1e-6
        motions.append(
            [
                (change_THW * slope_x_THW[:, 1:-1, 1:-1]).mean() / scale,
                (change_THW * slope_y_THW[:, 1:-1, 1:-1]).mean() / scale,
            ]
        )
    single = ridge_accuracy(np.array(frames), labels_N, train, penalty=1.0)
    motion = ridge_accuracy(np.array(motions), labels_N, train, penalty=1e-3)
    assert single < chance_bound(test)
    assert motion > 2 * chance_bound(test)


def object_states(frame: int | None, clips: int, seed: int) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Places and sizes of the objects in one frame of each clip (a random one if None), with squares."""
    rng = np.random.default_rng(seed)
    states, labels_N = [], np.arange(clips) % len(CLASSES)
    for label in labels_N:
        geometry = draw_geometry(rng, objects=2, height=100, width=100)
        u_TM = draw_path(rng, motion=MOTIONS[CLASSES[label]], num_frames=16)
        u_M = u_TM[rng.integers(16) if frame is None else frame]
        centre_2 = geometry.centre_2 + u_M[:2] * geometry.displacement_2
        separation = geometry.separation + u_M[4] * geometry.separation_change
        state = np.array([*centre_2, geometry.radius_O[0] * geometry.zoom ** u_M[2], u_M[3], separation])
        states.append([*state, *(state - [50, 50, 12, 0, 50]) ** 2])
    return np.array(states), labels_N


def test_states_of_objects_in_a_random_frame_do_not_tell_the_class() -> None:
    """Sharper than pixels: 3,300 clips to fit, 3,300 to test, squares of the states included."""
    train, clips = 3300, 6600
    random_frame = ridge_accuracy(*object_states(None, clips, seed=1), train, penalty=1e-4)
    assert random_frame < chance_bound(clips - train)
    # The same probe on the last frames must see where the objects have ended up.
    last_frame = ridge_accuracy(*object_states(-1, clips, seed=1), train, penalty=1e-4)
    assert last_frame > 2 * chance_bound(clips - train)


# Files.

SPLITS = {"train": 2, "test": 1}


def contents(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("synthetic") / "motions"
    calls: list[tuple[int, int]] = []
    summary = write_dataset(root, splits=SPLITS, seed=3, options=SMALL, progress=lambda *c: calls.append(c))
    assert not summary.reused
    assert summary.clips == {"train": 22, "test": 11}
    assert calls == [(n, 33) for n in range(1, 34)]
    return root


def test_manifests_list_every_file_once(dataset: Path) -> None:
    listed = []
    for split, number in SPLITS.items():
        with (dataset / f"{split}.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == number * 11
        for row in rows:
            assert row["path"].startswith(f"{split}/{row['label']}/{row['label']}_0000")
        listed += [row["path"] for row in rows]
    assert sorted(listed) == sorted(p.relative_to(dataset).as_posix() for p in dataset.rglob("*.mp4"))
    assert len(set(listed)) == len(listed)
    assert sorted(p.name for p in dataset.parent.iterdir()) == ["motions"]


def test_files_hold_distinct_readable_clips(dataset: Path) -> None:
    first_frames = set()
    for path in dataset.rglob("*.mp4"):
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            assert stream.codec_context.name == "h264"
            assert stream.codec_context.pix_fmt == "yuv420p"
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        assert len(frames) == 8
        assert frames[0].shape == (48, 48, 3)
        first_frames.add(frames[0].tobytes())
    assert len(first_frames) == 33  # no clip twice, within or across splits


def test_encoding_keeps_the_picture(tmp_path: Path) -> None:
    from emim.datasets.synthetic.writer import write_clip

    clip = render_clip("down", seed=1, options=SMALL)
    write_clip(tmp_path / "clip.mp4", clip)
    with av.open(str(tmp_path / "clip.mp4")) as container:
        assert float(container.streams.video[0].average_rate or 0) == clip.fps
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    # Chroma is halved, so compare the mean over the channels.
    error = frames.mean(axis=3) - clip.frames_THWC.mean(axis=3)
    assert np.abs(error).mean() < 8


def test_second_run_reuses_and_other_parameters_are_refused(dataset: Path) -> None:
    before = contents(dataset)
    assert write_dataset(dataset, splits=SPLITS, seed=3, options=SMALL).reused
    assert contents(dataset) == before
    with pytest.raises(DataError, match="other seed"):
        write_dataset(dataset, splits=SPLITS, seed=4, options=SMALL)
    with pytest.raises(DataError, match="other options"):
        write_dataset(dataset, splits=SPLITS, seed=3)


def test_clips_do_not_depend_on_other_splits(dataset: Path, tmp_path: Path) -> None:
    write_dataset(tmp_path / "one", splits={"test": 1}, seed=3, options=SMALL)
    path = "test/left/left_00000.mp4"
    assert (tmp_path / "one" / path).read_bytes() == (dataset / path).read_bytes()


def test_a_folder_with_other_things_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match="holds other things"):
        write_dataset(tmp_path, splits=SPLITS, options=SMALL)
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    options = replace(SMALL, num_frames=2)
    write_dataset(tmp_path / "data", splits={"test": 1}, options=options)
    (tmp_path / "data/test/left/left_00000.mp4").unlink()
    with pytest.raises(DataError, match=r"left_00000\.mp4 is missing"):
        write_dataset(tmp_path / "data", splits={"test": 1}, options=options)


def test_an_interrupted_run_leaves_nothing(tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_dataset(tmp_path / "data", splits=SPLITS, options=SMALL, progress=stop)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("splits", [{}, {"train": 0}, {"../up": 1}, {"": 1}])
def test_bad_splits_are_refused(tmp_path: Path, splits: dict[str, int]) -> None:
    with pytest.raises(ConfigError):
        write_dataset(tmp_path / "data", splits=splits, options=SMALL)


def test_dataset_records_its_parameters(dataset: Path) -> None:
    record = json.loads((dataset / "dataset.json").read_text())
    assert record["classes"] == list(CLASSES)
    assert record["splits"] == SPLITS
    assert record["options"]["height"] == 48


@pytest.mark.slow
def test_workers_write_the_same_files(dataset: Path, tmp_path: Path) -> None:
    write_dataset(tmp_path / "again", splits=SPLITS, seed=3, options=SMALL, workers=2)
    assert contents(tmp_path / "again") == contents(dataset)
