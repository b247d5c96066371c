"""Explain a prediction in one picture: the evidence of each frame and place, next to the motion between the frames.

The evidence is gradient times activation of the last features (HiResCAM; Draelos and Carin, arXiv:2011.08891).

Shape suffixes: V views, C channels (colours, last in pictures), T frames, H and W pixels of a view, 2 axes (x, y), K
classes, h and w the grid of the features or of a field.
"""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from emim._moved import renamed
from emim.data.preprocessing import Preprocessing, finish_views
from emim.errors import ConfigError
from emim.inference.reading import VideoSource, source_name
from emim.inference.recogniser import Recogniser
from emim.models import UniFormer
from emim.motion.drawing import Floats, Picture, draw_colours, draw_legend, fitted_text, resized, text_font
from emim.motion.field import faded_where_still, motion_field
from emim.nn.affinity import emim_blocks
from emim.utils import atomic_write, nearest

__all__ = ["Explanation", "draw_sheet", "explain", "explain_views", "hires_cam"]


def hires_cam(model: UniFormer, clip_BCTHW: Tensor, class_index: int) -> Tensor:
    """Compute the class activation map of a class by HiResCAM: gradient times activation, summed over channels.

    The head is linear in the mean of the last features, so the map is exactly the contribution of each frame and place
    to the class's logit. The mean logit over the classes is subtracted first, since a contribution to all classes
    decides nothing. Negative values are evidence against the class.

    Args:
        model: the network; it runs in evaluation mode and is left as it was.
        clip_BCTHW: normalised clips.
        class_index: the class, from 0.

    Returns:
        cam_BTHW on the grid of the last features; its sum over T, H and W is the class's logit minus the mean logit,
        up to the bias of the head.

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
    """The evidence for a prediction, in one of the views of the video.

    Attributes:
        video: path or name of the video.
        label: the class explained.
        score: its score over all views, from 0 to 1.
        runners_up: the next best classes and their scores.
        view: number of the view shown, from 0: the one with the highest score of the class.
        num_views: number of views.
        frames_THWC: the view's pixels, as the network saw them.
        cam_Thw: evidence of each frame and place for the class (above 0) or against it; see `hires_cam`.
        displacement_T2hw: displacement of each place to the next frame (x to the right, y down), in pixels of the
            view, as `emim.motion.video` shows it; None without EMIM blocks.
        confidence_Thw: of the displacements, from 0 to 1; None without EMIM blocks.
    """

    video: Path
    label: str
    score: float
    runners_up: tuple[tuple[str, float], ...]
    view: int
    num_views: int
    frames_THWC: Picture
    cam_Thw: Floats
    displacement_T2hw: Floats | None
    confidence_Thw: Floats | None

    @property
    def frame_share_T(self) -> Floats:
        """Share of each frame in the evidence for the class."""
        evidence_T = np.maximum(self.cam_Thw, 0).sum(axis=(1, 2))
        return np.asarray(evidence_T / max(float(evidence_T.sum()), 1e-12))

    @property
    def relevance_Thw(self) -> Floats:
        """Old name of `cam_Thw`."""
        warnings.warn(
            "Explanation.relevance_Thw is now cam_Thw; the old name works until version 0.3", FutureWarning, 2
        )
        return self.cam_Thw

    def describe(self) -> str:
        """Return the explanation in words, as a text alternative to the picture."""
        share_T = self.frame_share_T
        best = int(share_T.argmax())
        evidence_hw = np.maximum(self.cam_Thw, 0).sum(axis=0)
        row, column = np.unravel_index(int(evidence_hw.argmax()), evidence_hw.shape)
        rows, columns = evidence_hw.shape
        place = f"{_ROWS[3 * int(row) // rows]} {_COLUMNS[3 * int(column) // columns]}"
        return (
            f"{self.label}, with a score of {self.score:.0%}. Its evidence is strongest in frame {best + 1} of "
            f"{len(share_T)} ({share_T[best]:.0%} of the evidence for it) and in the {place} of the picture."
        )

    def _subtitle(self) -> str:
        others = ", ".join(f"{label} {score:.0%}" for label, score in self.runners_up)
        views = f"view {self.view + 1} of {self.num_views}" if self.num_views > 1 else "the only view"
        return f"{self.video.name}, {views}" + (f"; next best: {others}" if others else "")

    def draw(self) -> Picture:
        """Draw the picture: frames, evidence for and against the class, and the motion to the next frame."""
        return draw_sheet(
            self.frames_THWC,
            self.cam_Thw,
            self.displacement_T2hw,
            self.confidence_Thw,
            label=self.label,
            title=f"{self.label}  {self.score:.0%}",
            subtitle=self._subtitle(),
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the picture as a .png or .jpg; the file appears whole or not at all.

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


def explain(
    recogniser: Recogniser,
    video: VideoSource,
    label: str | None = None,
    *,
    fps: float | None = None,
    start: float | None = None,
    end: float | None = None,
) -> Explanation:
    """Explain the prediction of a video.

    Args:
        recogniser: the trained network; see `explain_views`.
        video: path, bytes or frames, with `fps`, `start` and `end`: as for `Recogniser.predict`.
        label: the class to explain; None for the predicted one.
        fps: frames per second of frames in memory.
        start: seconds at which to begin.
        end: seconds before which to end.

    Raises:
        VideoError: the video cannot be read.
        ConfigError: there is no such class.
    """
    _check_label(recogniser, label)  # before anything is read
    read = recogniser.read(video, fps=fps, start=start, end=end)
    views_VCTHW = finish_views(read.views_VCTHW, recogniser.preprocessing)
    return explain_views(recogniser, source_name(video), views_VCTHW, label)


def explain_views(
    recogniser: Recogniser, video: str | os.PathLike[str], views_VCTHW: Tensor, label: str | None = None
) -> Explanation:
    """Explain the prediction of a video that has been read.

    Args:
        recogniser: the trained network; it has `forward_features`, a linear `forward_head` and `num_classes`.
        video: path or name of the video.
        views_VCTHW: its normalised views, as of `emim.data.preprocessing.test_views`.
        label: the class to explain; None for the predicted one.

    Raises:
        ConfigError: there is no such class, or the network lacks one of these methods.
    """
    _check_label(recogniser, label)
    model, pre, classes = recogniser.model, recogniser.preprocessing, recogniser.classes
    lacking = [name for name in ("forward_features", "forward_head", "num_classes") if not hasattr(model, name)]
    if lacking:
        raise ConfigError(f"{type(model).__name__} cannot be explained: it has no {' and no '.join(lacking)}")
    score_VK = recogniser.logits(views_VCTHW, video).softmax(-1)
    views_VCTHW = views_VCTHW.to(recogniser.device)
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
        cam_Thw=hires_cam(cast("UniFormer", model), clip_1CTHW, index)[0].cpu().numpy(),
        displacement_T2hw=displacement_T2hw,
        confidence_Thw=confidence_Thw,
    )


def _check_label(recogniser: Recogniser, label: str | None) -> None:
    if label is not None and label not in recogniser.classes:
        raise ConfigError(f"no class {label!r}; {nearest(label, recogniser.classes)}")


def _pixels(view_CTHW: Tensor, pre: Preprocessing) -> Picture:
    """Undo the normalisation of a view; returns pixels_THWC, uint8."""
    mean_C, std_C = (view_CTHW.new_tensor(values) for values in (pre.mean, pre.std))
    pixels_THWC = view_CTHW.permute(1, 2, 3, 0) * std_C + mean_C
    return (pixels_THWC.clamp(0, 1) * 255).round().byte().cpu().numpy()


_MOST_FRAMES = 8
_TILE, _GAP, _MARGIN = 144, 6, 24
_HEADER, _LABELS, _BARS, _FOOT = 76, 136, 34, 76
_FOR = np.array([235.0, 100.0, 0.0], dtype=np.float32)
_AGAINST = np.array([30.0, 100.0, 200.0], dtype=np.float32)  # people who see few colours tell it from the orange
_INK, _QUIET, _PAPER = (28, 28, 30), (100, 100, 106), (255, 255, 255)


def draw_sheet(
    frames_THWC: Picture,
    cam_Thw: Floats,
    displacement_T2hw: Floats | None,
    confidence_Thw: Floats | None,
    *,
    label: str,
    title: str,
    subtitle: str,
) -> Picture:
    """Draw the picture; of more than eight frames, eight spread over the clip are shown.

    Args:
        frames_THWC: the frames.
        cam_Thw: evidence for the class (above 0) and against it, for any number of frames on any grid.
        displacement_T2hw: in pixels of the frames, likewise for any number of frames on any grid; None leaves the row
            out.
        confidence_Thw: of the displacements.
        label: the class.
        title: the first line.
        subtitle: the second line.
    """
    T, H, W = frames_THWC.shape[:3]
    times = np.unique(np.linspace(0, T - 1, min(T, _MOST_FRAMES)).round().astype(int)).tolist()
    factor = _TILE / max(H, W)
    tile = (max(1, round(H * factor)), max(1, round(W * factor)))
    moving = displacement_T2hw is not None and confidence_Thw is not None
    width = 2 * _MARGIN + _LABELS + len(times) * (tile[1] + _GAP) - _GAP
    height = 2 * _MARGIN + _HEADER + (2 + moving) * (tile[0] + _GAP) + _BARS + _FOOT
    page = Image.new("RGB", (width, height), _PAPER)
    pen = ImageDraw.Draw(page)
    pen.text((_MARGIN, _MARGIN), fitted_text(title, text_font(26), width - 2 * _MARGIN), _INK, text_font(26))
    pen.text((_MARGIN, _MARGIN + 36), fitted_text(subtitle, text_font(15), width - 2 * _MARGIN), _QUIET, text_font(15))

    def row(top: int, name: str, note: str, tiles: list[Picture]) -> int:
        pen.text((_MARGIN, top), name, _INK, text_font(16))
        pen.text((_MARGIN, top + 22), fitted_text(note, text_font(13), _LABELS - 10), _QUIET, text_font(13))
        for column, tile_HWC in enumerate(tiles):
            page.paste(Image.fromarray(tile_HWC), (_MARGIN + _LABELS + column * (tile[1] + _GAP), top))
        return int(top + tile[0] + _GAP)

    shown = [_sized(frames_THWC[time], tile) for time in times]
    top = row(_MARGIN + _HEADER, "Frames", "at the network's size", shown)
    scaled_Thw = _scaled(cam_Thw)
    shares = [scaled_Thw[_at(time, T, len(scaled_Thw))] for time in times]
    pairs = zip(shown, shares, strict=True)
    top = row(top, "Evidence", f"for {label}", [_evidence(frame_HWC, values_hw) for frame_HWC, values_hw in pairs])
    top = _draw_shares(pen, top, cam_Thw, times, T, tile[1])
    if displacement_T2hw is not None and confidence_Thw is not None:
        largest = max(float(np.quantile(np.hypot(*displacement_T2hw.swapaxes(0, 1)), 0.99)), 1.0)
        at = [_at(time, T, len(confidence_Thw)) for time in times]
        colours = [
            draw_colours(frames_THWC[time], displacement_T2hw[step], confidence_Thw[step], largest)
            for time, step in zip(times, at, strict=True)
        ]
        top = row(top, "Motion", "to the next frame", [_sized(picture_HWC, tile) for picture_HWC in colours])
        draw_legend(page, width - _MARGIN, top + _FOOT, 46, largest)
    _draw_key(pen, top + 14, label, width)
    return np.asarray(page)


def _at(time: int, frames: int, steps: int) -> int:
    """Return the step of a frame: there may be a step for every second frame only."""
    return time * steps // frames


def _sized(picture_HWC: Picture, size: tuple[int, int]) -> Picture:
    return np.asarray(Image.fromarray(picture_HWC).resize(size[::-1], Image.Resampling.BICUBIC))


def _scaled(cam_Thw: Floats) -> Floats:
    """Scale to at most 1 in absolute value. What all places have in common is subtracted, since it separates none."""
    common = max(0.0, float(cam_Thw.min())) + min(0.0, float(cam_Thw.max()))
    apart_Thw = cam_Thw - common
    return np.asarray(apart_Thw / max(float(np.abs(apart_Thw).max()), 1e-12))


def _evidence(frame_HWC: Picture, cam_hw: Floats) -> Picture:
    """Draw the frame in light grey, under orange for evidence for the class and blue for evidence against it."""
    height, width = frame_HWC.shape[:2]
    grey_HWC = np.asarray(Image.fromarray(frame_HWC).convert("L"), dtype=np.float32)[..., None] * 0.6 + 90
    cam_HWC = resized(cam_hw, height, width)[..., None]
    share_HWC = 0.9 * np.abs(cam_HWC) ** 0.7
    return np.asarray((1 - share_HWC) * grey_HWC + share_HWC * np.where(cam_HWC > 0, _FOR, _AGAINST), dtype=np.uint8)


def _draw_shares(
    pen: ImageDraw.ImageDraw, top: int, cam_Thw: Floats, times: list[int], frames: int, tile_width: int
) -> int:
    """Draw a bar for each frame: its share of the evidence for the class."""
    evidence_T = np.maximum(cam_Thw, 0).sum(axis=(1, 2))
    share_T = evidence_T / max(float(evidence_T.sum()), 1e-12)
    pen.text((_MARGIN, top), "share of a frame", _QUIET, text_font(13))
    for column, time in enumerate(times):
        left = _MARGIN + _LABELS + column * (tile_width + _GAP)
        share = float(share_T[_at(time, frames, len(share_T))])
        length = share / max(float(share_T.max()), 1e-12) * (tile_width - 40)
        pen.rectangle((left, top + 3, left + max(1.0, length), top + 13), tuple(int(value) for value in _FOR))
        pen.text((left + length + 6, top), f"{share:.0%}", _QUIET, text_font(13))
    return top + _BARS


def _draw_key(pen: ImageDraw.ImageDraw, top: int, label: str, width: int) -> None:
    left = _MARGIN + _LABELS
    for colour, text in ((_FOR, f"evidence for {label}"), (_AGAINST, f"evidence against {label}")):
        pen.rectangle((left, top, left + 14, top + 14), tuple(int(value) for value in colour))
        text = fitted_text(text, text_font(14), (width - _MARGIN - _LABELS) / 3)
        pen.text((left + 22, top - 1), text, _QUIET, text_font(14))
        left += 22 + round(text_font(14).getlength(text)) + 28


__getattr__ = renamed(__name__, {"class_relevance": ("hires_cam", hires_cam)})
