"""How near motion fields come to the true motion, against doing nothing and against an optical-flow method.

    python benchmarks/motion_fields.py [--checkpoint FILE] [--flow FOLDER]

Generated clips: of translation (left, right, up, down) and zoom (towards, away), of seeds that no training clip has, 8
frames of 96 x 96 pixels; the mean end-point error over pixels of the objects (and of the background), in pixels of the
clip. FOLDER holds Middlebury's RubberWhale (frame10.png, frame11.png, flow10.flo). The network is given frames with a
short side of 192 pixels, as `emim visualize` does; Farneback's method (OpenCV) sees the frames as they are.
"""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from emim.cli.console import print_table, say
from emim.data.preprocessing import normalise, resize, to_tensor
from emim.datasets.synthetic import ClipOptions, render_clip, true_displacement
from emim.inference.recogniser import Recogniser
from emim.motion import motion_field
from emim.motion.field import end_point_error
from emim.nn.affinity import emim_blocks

Floats = npt.NDArray[np.floating]
Frames = npt.NDArray[np.uint8]
Method = Callable[[Frames], Floats]
"""From frames_THWC to displacements T - 1, 2, h, w in pixels of the frames."""

LABELS = ("left", "right", "up", "down", "towards", "away")
SETS = {
    "as the generator's defaults": ClipOptions(num_frames=8, height=96, width=96),
    "clear: large objects, camera at rest": ClipOptions(
        num_frames=8, height=96, width=96, clear_share=1.0, solo_share=1.0
    ),
}
FIRST_SEED = 90_000_000
SHORT_SIDE = 192


def nothing(frames_THWC: Frames) -> Floats:
    return np.zeros((len(frames_THWC) - 1, 2, *frames_THWC.shape[1:3]))


def farneback(frames_THWC: Frames) -> Floats:
    import cv2

    grey_THW = [cv2.cvtColor(frame_HWC, cv2.COLOR_RGB2GRAY) for frame_HWC in frames_THWC]
    flows = [cv2.calcOpticalFlowFarneback(a, b, None, 0.5, 3, 15, 3, 5, 1.2, 0) for a, b in pairwise(grey_THW)]
    return np.stack(flows).transpose(0, 3, 1, 2)


def network(recogniser: Recogniser, block: str, short_side: int, *, less_still: bool = False) -> Method:
    def method(frames_THWC: Frames) -> Floats:
        height, width = frames_THWC.shape[1:3]
        factor = short_side / min(height, width)
        frames_TCHW = resize(to_tensor(frames_THWC), round(height * factor), round(width * factor))
        clip_1CTHW = normalise(frames_TCHW, recogniser.preprocessing).transpose(0, 1)[None]
        field = motion_field(recogniser.model, clip_1CTHW, blocks=[block], less_still=less_still)[block]
        return (field.displacement_BT2HW[0, :-1] / factor).numpy()

    return method


def on_generated(options: ClipOptions, methods: dict[str, Method], clips: int) -> list[tuple[str, ...]]:
    errors: dict[str, list[tuple[float, int, float, int]]] = {name: [] for name in methods}
    for number in range(clips):
        clip = render_clip(LABELS[number % len(LABELS)], seed=FIRST_SEED + number, options=options)
        truth_T2HW = true_displacement(clip)
        for name, method in methods.items():
            estimate_T2hw = method(clip.frames_THWC)
            for truth_2HW, estimate_2hw, objects_HW in zip(truth_T2HW, estimate_T2hw, clip.objects_THW, strict=False):
                object_HW = objects_HW > 0
                errors[name].append(
                    (
                        end_point_error(estimate_2hw, truth_2HW, object_HW),
                        int(object_HW.sum()),
                        end_point_error(estimate_2hw, truth_2HW, ~object_HW),
                        int((~object_HW).sum()),
                    )
                )
    rows = []
    for name, found in errors.items():
        on_objects, object_pixels, off_objects, other_pixels = np.array(found).T
        rows.append(
            (
                name,
                f"{np.average(on_objects, weights=object_pixels):.2f}",
                f"{np.average(off_objects, weights=other_pixels):.2f}",
            )
        )
    still = float(rows[0][1])
    return [(*row, f"{still / float(row[1]):.2f} x") for row in rows]


def on_rubber_whale(folder: Path, methods: dict[str, Method]) -> list[tuple[str, ...]]:
    frames_THWC = np.stack([np.asarray(Image.open(folder / f"frame{n}.png").convert("RGB")) for n in (10, 11)])
    truth_2HW = read_flo(folder / "flow10.flo")
    known_HW = (np.abs(truth_2HW) < 1e9).all(axis=0)  # unknown flow is stored as a huge number
    errors = {name: end_point_error(method(frames_THWC)[0], truth_2HW, known_HW) for name, method in methods.items()}
    return [(name, f"{error:.3f}", f"{errors['doing nothing'] / error:.2f} x") for name, error in errors.items()]


def read_flo(path: Path) -> Floats:
    """A Middlebury .flo file as displacement_2HW."""
    data = path.read_bytes()
    width, height = np.frombuffer(data, "<i4", count=2, offset=4)
    flow_HW2 = np.frombuffer(data, "<f4", count=2 * width * height, offset=12).reshape(height, width, 2)
    return flow_HW2.transpose(2, 0, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint")
    parser.add_argument("--clips", type=int, default=120)
    parser.add_argument("--flow", type=Path)
    parser.add_argument("--short-side", type=int, default=SHORT_SIDE)
    args = parser.parse_args()
    torch.manual_seed(0)
    recogniser = Recogniser.load(args.checkpoint, device="cpu")
    blocks = list(emim_blocks(recogniser.model))
    methods: dict[str, Method] = {"doing nothing": nothing}
    methods |= {f"motion field, {block}": network(recogniser, block, args.short_side) for block in blocks}
    methods[f"{blocks[0]}, less still"] = network(recogniser, blocks[0], args.short_side, less_still=True)
    if importlib.util.find_spec("cv2") is None:
        say("Farneback is left out: pip install -c constraints.txt 'emim[bench]'")
    else:
        methods["Farneback (OpenCV)"] = farneback
    for name, options in SETS.items():
        rows = on_generated(options, methods, args.clips)
        print_table(
            f"End-point error in pixels, {name}", ("", "objects", "background", "against nothing, objects"), tuple(rows)
        )
    if args.flow:
        print_table("RubberWhale", ("", "pixels", "against nothing"), tuple(on_rubber_whale(args.flow, methods)))


if __name__ == "__main__":
    main()
