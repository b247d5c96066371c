"""One picture per prediction: the frames and places that it rests on, next to the motion between the frames.

Shape suffixes: V views, C channels (colours, last in pictures), T frames, H and W pixels of a view, 2 axes (x, y), K
classes, h and w the grid of the features or of a field.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from emim.data.preprocessing import Preprocessing, test_views
from emim.data.video import open_video
from emim.errors import ConfigError
from emim.inference.recogniser import Recogniser
from emim.inference.scoring import view_logits
from emim.models import UniFormer
from emim.motion.drawing import Floats, Picture
from emim.motion.field import faded_where_still, motion_field
from emim.motion.sheet import draw_sheet
from emim.nn.affinity import emim_blocks
from emim.utils import atomic_write, nearest


def class_relevance(model: UniFormer, clip_BCTHW: Tensor, class_index: int) -> Tensor:
    """How much each frame and place of the last features speaks for a class: gradient times feature.

    The head is linear in the mean of the features, so the sum over channels of feature times gradient is exactly what
    a place adds to the class's logit. What all classes get alike is taken off, since it decides nothing: the logit is
    compared with the mean over the classes. Negative values speak against the class.

    Args:
        model: the network; it runs in evaluation mode and is left as it was.
        clip_BCTHW: normalised clip.
        class_index: the class.

    Returns:
        relevance_BTHW; its sum over T, H and W is the class's logit less the mean logit, but for the bias of the head.

    Raises:
        IndexError: there is no such class.
    """
    if not 0 <= class_index < model.num_classes:
        raise IndexError(f"class {class_index} is not one of the {model.num_classes} classes")
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            features_BCTHW = model.forward_features(clip_BCTHW)
        with torch.enable_grad():
            features_BCTHW = features_BCTHW.detach().float().requires_grad_()
            logits_BK = model.forward_head(features_BCTHW)
            over_others = (logits_BK[:, class_index] - logits_BK.mean(1)).sum()
            (gradient_BCTHW,) = torch.autograd.grad(over_others, features_BCTHW)
        return (gradient_BCTHW * features_BCTHW).sum(1).detach()
    finally:
        model.train(was_training)


_ROWS, _COLUMNS = ("upper", "middle", "lower"), ("left", "centre", "right")


@dataclass(frozen=True)
class Explanation:
    """What a prediction rests on, in one of the views that it was made of.

    Attributes:
        video: what was predicted.
        label: the class explained.
        score: its score over all views, from 0 to 1.
        runners_up: the next best classes and their scores.
        view: number of the view shown, from 0: the one in which the class has its best score.
        num_views: how many views there were.
        frames_THWC: the view's pixels, as the network saw them.
        relevance_Thw: how much each frame and place speaks for the class (above 0) or against it; see
            `emim.motion.explanation`.
        displacement_T2hw: where places go until the next frame, in pixels of the view, as `emim.motion.video`
            shows them; None without EMIM blocks.
        confidence_Thw: of the displacements.
    """

    video: Path
    label: str
    score: float
    runners_up: tuple[tuple[str, float], ...]
    view: int
    num_views: int
    frames_THWC: Picture
    relevance_Thw: Floats
    displacement_T2hw: Floats | None
    confidence_Thw: Floats | None

    @property
    def frame_share_T(self) -> Floats:
        """Share of each frame in all that speaks for the class."""
        speaks_T = np.maximum(self.relevance_Thw, 0).sum(axis=(1, 2))
        return np.asarray(speaks_T / max(float(speaks_T.sum()), 1e-12))

    def describe(self) -> str:
        """The explanation in a sentence, for those who cannot see the picture."""
        share_T = self.frame_share_T
        best = int(share_T.argmax())
        relevance_hw = np.maximum(self.relevance_Thw, 0).sum(axis=0)
        row, column = np.unravel_index(int(relevance_hw.argmax()), relevance_hw.shape)
        rows, columns = relevance_hw.shape
        place = f"{_ROWS[3 * int(row) // rows]} {_COLUMNS[3 * int(column) // columns]}"
        return (
            f"{self.label}, with a score of {self.score:.0%}. It rests most on frame {best + 1} of {len(share_T)} "
            f"({share_T[best]:.0%} of all that speaks for it) and on the {place} of the picture."
        )

    def _subtitle(self) -> str:
        others = ", ".join(f"{label} {score:.0%}" for label, score in self.runners_up)
        views = f"view {self.view + 1} of {self.num_views}" if self.num_views > 1 else "the only view"
        return f"{self.video.name}, {views}" + (f"; next best: {others}" if others else "")

    def draw(self) -> Picture:
        """The picture: frames, what speaks for and against the class, and the motion to the next frame."""
        return draw_sheet(
            self.frames_THWC,
            self.relevance_Thw,
            self.displacement_T2hw,
            self.confidence_Thw,
            label=self.label,
            title=f"{self.label}  {self.score:.0%}",
            subtitle=self._subtitle(),
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the picture as a .png or .jpg; whole or not at all.

        Raises:
            ConfigError: another format, or the file cannot be written.
        """
        path = Path(path)
        kind = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}.get(path.suffix.lower())
        if kind is None:
            raise ConfigError(f"{path}: name the picture .png or .jpg")
        try:
            with atomic_write(path) as temporary:
                Image.fromarray(self.draw()).save(temporary, format=kind)
        except OSError as error:
            raise ConfigError(f"{path}: cannot be written ({error.strerror or error})") from error


def explain(recogniser: Recogniser, video: str | os.PathLike[str], label: str | None = None) -> Explanation:
    """What the prediction of a video rests on.

    Args:
        recogniser: the trained network.
        video: file or folder of frames.
        label: the class to explain; None for the best one.

    Raises:
        VideoError: the video cannot be read.
        ConfigError: there is no such class.
    """
    _check_label(recogniser, label)  # before anything is read
    with open_video(video) as reader:
        views_VCTHW = test_views(reader, recogniser.preprocessing)
    return explain_views(recogniser, video, views_VCTHW, label)


def explain_views(
    recogniser: Recogniser, video: str | os.PathLike[str], views_VCTHW: Tensor, label: str | None = None
) -> Explanation:
    """The same of a video that has been read: its views as of `emim.data.preprocessing.test_views`.

    Raises:
        ConfigError: there is no such class.
    """
    _check_label(recogniser, label)
    model, pre, classes = recogniser.model, recogniser.preprocessing, recogniser.classes
    views_VCTHW = views_VCTHW.to(recogniser.device)
    with torch.inference_mode():
        score_VK = view_logits(model, [views_VCTHW], recogniser.device)[0].softmax(-1)
    score_K = score_VK.mean(0)
    index = int(score_K.argmax()) if label is None else classes.index(label)
    order = [int(other) for other in score_K.argsort(descending=True) if int(other) != index]
    view = int(score_VK[:, index].argmax())
    clip_1CTHW = views_VCTHW[view : view + 1]
    frames_THWC = _pixels(clip_1CTHW[0], pre)
    displacement_T2hw = confidence_Thw = None
    if blocks := list(emim_blocks(model)):
        field = motion_field(model, clip_1CTHW, blocks=blocks[:1], less_still=True)[blocks[0]]
        field = faded_where_still(field, torch.from_numpy(frames_THWC).permute(0, 3, 1, 2)[None])
        displacement_T2hw = field.displacement_BT2HW[0].cpu().numpy()
        confidence_Thw = field.confidence_BTHW[0].cpu().numpy()
    return Explanation(
        video=Path(video),
        label=classes[index],
        score=float(score_K[index]),
        runners_up=tuple((classes[other], float(score_K[other])) for other in order[:2]),
        view=view,
        num_views=len(views_VCTHW),
        frames_THWC=frames_THWC,
        relevance_Thw=class_relevance(model, clip_1CTHW, index)[0].cpu().numpy(),
        displacement_T2hw=displacement_T2hw,
        confidence_Thw=confidence_Thw,
    )


def _check_label(recogniser: Recogniser, label: str | None) -> None:
    if label is not None and label not in recogniser.classes:
        raise ConfigError(f"no class {label!r}; {nearest(label, recogniser.classes)}")


def _pixels(view_CTHW: Tensor, pre: Preprocessing) -> Picture:
    """The picture that normalised values stand for."""
    mean_C, std_C = (view_CTHW.new_tensor(values) for values in (pre.mean, pre.std))
    pixels_THWC = view_CTHW.permute(1, 2, 3, 0) * std_C + mean_C
    return (pixels_THWC.clamp(0, 1) * 255).round().byte().cpu().numpy()
