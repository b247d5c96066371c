"""Generated clips in which no single frame reveals the class.

One or two textured objects move over a textured background, in eleven classes of motion. Sizes, places,
amplitudes, textures and camera are drawn without looking at the class, and the path of the moving state
dimension visits the same values that a resting one is drawn from (`emim.datasets.synthetic.motion`). A frame
drawn uniformly from a clip therefore has one and the same distribution in every class, and a network must
compare frames to tell the classes apart. (The first frame alone does say a little: what ends up left is
likely to start on the right. Video compression, too, spends its bits where things move.)

`render_clip` draws one clip, `composite_clip` one from given images, `write_dataset` writes mp4 files with
manifests. `true_displacement` is a drawn clip's true flow.
"""

from __future__ import annotations

from emim.datasets.synthetic.classes import CLASSES, MOTIONS, ClipOptions, Dimension, Motion
from emim.datasets.synthetic.motion import Tracks
from emim.datasets.synthetic.render import RenderedClip, composite_clip, render_clip, true_displacement
from emim.datasets.synthetic.writer import DatasetSummary, write_dataset

__all__ = [
    "CLASSES",
    "MOTIONS",
    "ClipOptions",
    "DatasetSummary",
    "Dimension",
    "Motion",
    "RenderedClip",
    "Tracks",
    "composite_clip",
    "render_clip",
    "true_displacement",
    "write_dataset",
]
