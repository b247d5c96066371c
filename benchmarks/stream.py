"""Latency of `emim stream` over minutes: does it stay the same, and does memory?

    python benchmarks/stream.py [--seconds 130] [--video FILE] [--checkpoint FILE] [--stride 0.25]

Writes a 640x480 file at 30 frames a second (generated clips one after the other, h264 as libx264 makes it, with
B-frames unless --no-b-frames), plays it in real time, and predicts it as `emim stream` does, writing every prediction
as a line of JSON. Prints latency (from the arrival of a clip's newest frame, see docs/guides/stream.md, to the line
being written) as median and 95th percentile, of all and of each quarter of the time; what was dropped; resident memory
at the start and end of each; and processor time, which others that use the machine change less than latency. The load
averages at both ends tell whether there were others. Needs Linux (/proc).
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np

from emim.environment import describe_machine, let_waiting_threads_sleep, usable_cores

FPS = 30
HEIGHT, WIDTH = 480, 640
QUARTERS = 4


@dataclass(frozen=True)
class Reading:
    """One prediction.

    Attributes:
        time: of the source, in seconds.
        latency: seconds.
        work: seconds of processor time of the predicting thread since the prediction before.
        memory: resident MiB of this process.
    """

    time: float
    latency: float
    work: float
    memory: float


def write_video(path: Path, seconds: float, b_frames: bool) -> None:
    """Clips of all classes, in turn, until the time is full."""
    from emim.datasets.synthetic import CLASSES, ClipOptions, render_clip

    options = ClipOptions(num_frames=2 * FPS, height=HEIGHT, width=WIDTH, fps=FPS)
    codec = {"preset": "veryfast", "crf": "23"} | ({} if b_frames else {"bf": "0"})
    clips = [render_clip(label, seed=number, options=options).frames_THWC for number, label in enumerate(CLASSES)]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options=codec)
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        for number in range(round(seconds * FPS)):
            clip, frame = divmod(number, 2 * FPS)
            frame_HWC = clips[clip % len(clips)][frame]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame_HWC, format="rgb24")))
        container.mux(stream.encode())


def resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def load() -> str:
    return "load averages {:.2f}, {:.2f}, {:.2f}".format(*os.getloadavg())


def watch(video: Path, options: argparse.Namespace) -> None:
    import torch

    from emim.inference.live.connection import parse_source
    from emim.inference.live.predictor import LiveOptions, LivePredictor
    from emim.inference.recogniser import Recogniser

    torch.set_num_threads(options.threads)
    recogniser = Recogniser.load(options.checkpoint, device=options.device)
    predictor = LivePredictor(parse_source(str(video)), recogniser, LiveOptions(stride=options.stride))
    readings: list[Reading] = []
    print(describe_machine().line())
    print(
        f"{options.threads} thread(s) for the network, a prediction each {options.stride:g} s from "
        f"{recogniser.preprocessing.num_frames} frames over {predictor.shape.span:g} s; {load()}"
    )
    processor, work = time.process_time(), 0.0
    with tempfile.TemporaryFile("w") as lines:
        for item in predictor.items():
            if isinstance(item, str):
                print(item, flush=True)
                continue
            lines.write(json.dumps({"label": item.smoothed[0].label, "score": item.smoothed[0].score}) + "\n")
            lines.flush()
            latency, before, work = time.monotonic() - item.captured, work, time.thread_time()
            readings.append(Reading(item.time, latency, work - before, resident_mib()))
    processor = time.process_time() - processor
    show(readings)
    summary = predictor.summary()
    print(
        f"dropped {summary.dropped} of {summary.due} due predictions "
        f"({summary.dropped / max(summary.due, 1):.2%}); {summary.late} of {summary.frames + summary.late} frames left "
        f"out as too late; processor time: {processor / summary.seconds:.0%} of a core, in a prediction "
        f"{1e3 * float(np.median([reading.work for reading in readings[1:]])):.0f} ms (median); {load()}"
    )


def show(readings: list[Reading]) -> None:
    if len(readings) < 10 * QUARTERS:
        sys.exit(f"only {len(readings)} predictions: too few for quarters; play a longer video")
    edges = np.linspace(0, len(readings), QUARTERS + 1).round().astype(int).tolist()
    parts = [("all", readings)]
    parts += [(f"quarter {number + 1}", readings[edges[number] : edges[number + 1]]) for number in range(QUARTERS)]
    for name, part in parts:
        latency = np.array([reading.latency for reading in part])
        p50, p95 = 1e3 * np.quantile(latency, (0.5, 0.95))
        print(
            f"{name:<10} {part[0].time:6.1f} to {part[-1].time:6.1f} s: {len(part):4d} predictions, latency median "
            f"{p50:5.1f} ms, p95 {p95:5.1f} ms, most {1e3 * latency.max():6.1f} ms; memory {part[0].memory:6.1f} to "
            f"{part[-1].memory:6.1f} MiB"
        )


def main() -> None:
    let_waiting_threads_sleep()
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=130.0, help="length of the generated video")
    parser.add_argument("--no-b-frames", action="store_true", help="as cameras encode")
    parser.add_argument("--video", type=Path, help="play this file instead of a generated one")
    parser.add_argument("--checkpoint", help="model.safetensors of a run; the bundled model where left out")
    parser.add_argument("--stride", type=float, default=0.25, help="seconds between predictions")
    parser.add_argument("--threads", type=int, default=max(1, usable_cores() - 1), help="of the network")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    options = parser.parse_args()
    if options.video is not None:
        watch(options.video, options)
        return
    with tempfile.TemporaryDirectory() as folder:
        video = Path(folder) / "generated.mp4"
        # A process of its own, so that its memory does not count.
        words = (video, options.seconds, not options.no_b_frames)
        writer = multiprocessing.get_context("spawn").Process(target=write_video, args=words)
        writer.start()
        writer.join()
        if writer.exitcode:
            sys.exit("the video could not be written")
        watch(video, options)


if __name__ == "__main__":
    main()
