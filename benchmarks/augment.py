"""What training augmentation costs: each stage of the published recipe, and each operation of RandAugment.

    python benchmarks/augment.py --clips 300
    python benchmarks/augment.py --video clip.mp4

On one thread, on 16 frames of 340 x 256 (generated ones, or those of a video) that become 224 x 224. First the stages
of `TrainTransform` in milliseconds per clip: mean, median and 95th percentile over clips that each have draws of their
own. Then every operation at magnitude 7, beside Pillow's own, frame by frame from arrays to arrays, as medians of runs
that take turns. It is the thread's own time that counts, so that other work on the machine disturbs little.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageEnhance, ImageOps

from emim.data.augment.randaugment import OPERATIONS, RandAugment
from emim.data.augment.transforms import AugmentOptions, TrainTransform, in_clip_order
from emim.data.preprocessing import Preprocessing, normalise
from emim.data.video import open_video

Frames = npt.NDArray[np.uint8]

RECIPE = AugmentOptions(randaugment="rand-m7-n4-mstd0.5-inc1", flip=0.5, erasing=0.25, erasing_noise="frame")


def generated_frames(count: int, height: int, width: int) -> Frames:
    """A textured scene that pans, with some noise."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 220, (height // 8 + 1, (width + 4 * count) // 8 + 2, 3), dtype=np.uint8)
    scene_HWC = coarse.repeat(8, axis=0).repeat(8, axis=1)
    views = [scene_HWC[:height, 3 * t : 3 * t + width] for t in range(count)]
    return np.stack(views) + rng.integers(0, 30, (count, height, width, 3), dtype=np.uint8)


def video_frames(path: Path, count: int) -> Frames:
    """`count` frames spread over a video."""
    with open_video(path) as reader:
        return reader.read([int((i + 0.5) * reader.num_frames / count) for i in range(count)])


def time_stages(frames_THWC: Frames, size: int, clips: int) -> dict[str, list[float]]:
    """Milliseconds of each stage, and of the whole transform, for every clip."""
    pre = Preprocessing(num_frames=len(frames_THWC), size=size)
    transform = TrainTransform(RECIPE, pre)
    assert transform.randaugment is not None
    times: dict[str, list[float]] = {}

    def timed(stage: str, start: float) -> None:
        times.setdefault(stage, []).append(1e3 * (time.thread_time() - start))

    for seed in range(clips):
        rng = np.random.default_rng(seed)
        start = time.thread_time()
        augmented_THWC = transform.randaugment(frames_THWC, rng)
        timed("RandAugment", start)
        start = time.thread_time()
        placed = transform.crop(augmented_THWC, rng)
        timed("crop and resize", start)
        start = time.thread_time()
        clip_TCHW = normalise(in_clip_order(placed.frames), pre)
        timed("normalise", start)
        start = time.thread_time()
        clip_TCHW, _ = transform.flip(clip_TCHW, 0, rng)
        timed("flip", start)
        start = time.thread_time()
        transform.erase(clip_TCHW, rng)
        timed("erase", start)
        start = time.thread_time()
        transform(frames_THWC, 0, np.random.default_rng(seed))
        timed("all", start)
    return times


def pillow_operation(name: str, strength: float) -> Callable[[Image.Image], Image.Image]:
    """Pillow's counterpart of an operation."""
    plain = {"AutoContrast": ImageOps.autocontrast, "Equalize": ImageOps.equalize, "Invert": ImageOps.invert}
    if name in plain:
        return plain[name]
    if name == "Posterize":
        return lambda image: ImageOps.posterize(image, int(strength))
    if name == "Solarize":
        return lambda image: ImageOps.solarize(image, int(strength))
    if name == "SolarizeAdd":
        table = [value + int(strength) if value < 128 else value for value in range(256)]
        return lambda image: image.point(table * 3)
    if name in ("Color", "Contrast", "Brightness", "Sharpness"):
        return lambda image: getattr(ImageEnhance, name)(image).enhance(strength)
    fill, bicubic = (128, 128, 128), Image.Resampling.BICUBIC
    if name == "Rotate":
        return lambda image: image.rotate(strength, resample=bicubic, fillcolor=fill)

    def affine(image: Image.Image) -> Image.Image:
        matrix = {
            "ShearX": (1, strength, 0, 0, 1, 0),
            "ShearY": (1, 0, 0, strength, 1, 0),
            "TranslateX": (1, 0, strength * image.width, 0, 1, 0),
            "TranslateY": (1, 0, 0, 0, 1, strength * image.height),
        }[name]
        return image.transform(image.size, Image.Transform.AFFINE, matrix, resample=bicubic, fillcolor=fill)

    return affine


def time_operation(name: str, frames_THWC: Frames, repeats: int) -> tuple[float, float, int]:
    """Median milliseconds of ours and of Pillow, and the largest difference of their pixels."""
    augment = RandAugment.parse(str(RECIPE.randaugment))
    strength = augment.strength(name, augment.magnitude, 1)
    pillow = pillow_operation(name, strength)
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats):
        start = time.thread_time()
        ours_THWC = OPERATIONS[name](frames_THWC, strength, augment.fill)
        middle = time.thread_time()
        theirs_THWC = np.stack([np.asarray(pillow(Image.fromarray(frame_HWC))) for frame_HWC in frames_THWC])
        times[0].append(1e3 * (middle - start))
        times[1].append(1e3 * (time.thread_time() - middle))
    difference = np.abs(ours_THWC.astype(int) - theirs_THWC).max()
    return float(np.median(times[0])), float(np.median(times[1])), int(difference)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--video", type=Path, help="take the frames from this video")
    parser.add_argument("--frames", type=int, default=16, help="frames per clip")
    parser.add_argument("--height", type=int, default=256, help="pixels of generated frames")
    parser.add_argument("--width", type=int, default=340, help="pixels of generated frames")
    parser.add_argument("--size", type=int, default=224, help="side of the network's input")
    parser.add_argument("--clips", type=int, default=300, help="clips, each with its own draws")
    parser.add_argument("--repeats", type=int, default=15, help="timed runs per operation")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.video:
        frames_THWC = video_frames(options.video, options.frames)
    else:
        frames_THWC = generated_frames(options.frames, options.height, options.width)
    frames, height, width, _ = frames_THWC.shape

    print(f"{frames} frames of {width} x {height} to {options.size} x {options.size}, ms of {options.clips} clips")
    print(f"{'stage':<36}{'mean':>8}{'median':>8}{'p95':>8}")
    for stage, values in time_stages(frames_THWC, options.size, options.clips).items():
        print(f"{stage:<36}{np.mean(values):>8.1f}{np.median(values):>8.1f}{np.percentile(values, 95):>8.1f}")

    print(f"\n{'operation':<36}{'emim':>8}{'Pillow':>8}{'largest difference':>20}")
    medians = []
    for name in OPERATIONS:
        ours, theirs, difference = time_operation(name, frames_THWC, options.repeats)
        medians.append((ours, theirs))
        print(f"{name:<36}{ours:>8.1f}{theirs:>8.1f}{difference:>20}")
    # Two of the four drawn operations are applied to a clip on average.
    ours, theirs = 2 * np.mean(medians, axis=0)
    print(f"{'two of them, on average':<36}{ours:>8.1f}{theirs:>8.1f}")


if __name__ == "__main__":
    main()
