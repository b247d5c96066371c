"""RandAugment on whole clips, as published video recipes use it: one draw for all frames.

A recipe is named by a string such as "rand-m7-n4-mstd0.5-inc1": four operations, drawn with replacement from the
fifteen of `OPERATIONS`, each applied with probability 0.5 at a magnitude drawn from a normal distribution of mean 7 and
standard deviation 0.5, on a scale of 0 to 10.

Shape legend: T frames, H height, W width, C channels.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from emim.data.augment import image_ops
from emim.data.augment.image_ops import Frames
from emim.errors import ConfigError
from emim.utils import nearest

__all__ = ["OPERATIONS", "TOP", "Operation", "RandAugment", "Step"]

Operation = Callable[[Frames, float, int], Frames]
"""Frames, strength (its meaning depends on the operation) and fill to frames."""

TOP = 10.0

OPERATIONS: dict[str, Operation] = {
    "AutoContrast": lambda frames, _, fill: image_ops.auto_contrast(frames),
    "Equalize": lambda frames, _, fill: image_ops.equalize(frames),
    "Invert": lambda frames, _, fill: image_ops.invert(frames),
    "Rotate": lambda frames, degrees, fill: image_ops.rotate(frames, degrees, fill),
    "Posterize": lambda frames, bits, fill: image_ops.posterize(frames, int(bits)),
    "Solarize": lambda frames, threshold, fill: image_ops.solarize(frames, int(threshold)),
    "SolarizeAdd": lambda frames, add, fill: image_ops.solarize_add(frames, int(add)),
    "Color": lambda frames, factor, fill: image_ops.color(frames, factor),
    "Contrast": lambda frames, factor, fill: image_ops.contrast(frames, factor),
    "Brightness": lambda frames, factor, fill: image_ops.brightness(frames, factor),
    "Sharpness": lambda frames, factor, fill: image_ops.sharpness(frames, factor),
    "ShearX": lambda frames, factor, fill: image_ops.shear_x(frames, factor, fill),
    "ShearY": lambda frames, factor, fill: image_ops.shear_y(frames, factor, fill),
    "TranslateX": lambda frames, share, fill: image_ops.translate_x(frames, share * frames.shape[2], fill),
    "TranslateY": lambda frames, share, fill: image_ops.translate_y(frames, share * frames.shape[1], fill),
}
_NAMES = tuple(OPERATIONS)

# Largest size of the operations that go both ways, and of the steps away from 1 of those that blend.
_SIGNED = {"Rotate": 30.0, "ShearX": 0.3, "ShearY": 0.3, "TranslateX": 0.45, "TranslateY": 0.45}
_BLENDS = ("Color", "Contrast", "Brightness", "Sharpness")

_SECTION = re.compile(r"([a-z]+)(\d+(?:\.\d+)?)")
_DEFAULTS = {"m": 10.0, "n": 2.0, "mstd": 0.0, "inc": 0.0, "p": 0.5}


@dataclass(frozen=True)
class Step:
    """One operation to apply: its name, a key of `OPERATIONS`, and its strength."""

    name: str
    strength: float


@dataclass(frozen=True)
class RandAugment:
    """Random operations on the frames of a clip; all frames have the same ones with the same strengths.

    Statistics that an operation needs (histogram, mean) are each frame's own, as published.

    Attributes:
        magnitude: mean magnitude, 0 to 10.
        num_ops: operations drawn for a clip.
        noise: standard deviation of the magnitude; drawn magnitudes are clipped to 0..10.
        increasing: a larger magnitude is always a stronger change. Otherwise posterising and solarising
            are strongest at 0, and blends go from 0.1 at 0 to 1.9 at 10.
        probability: that a drawn operation is applied.
        fill: grey value of what a shift or turn uncovers; published code has 128.
    """

    magnitude: float = _DEFAULTS["m"]
    num_ops: int = int(_DEFAULTS["n"])
    noise: float = _DEFAULTS["mstd"]
    increasing: bool = False
    probability: float = _DEFAULTS["p"]
    fill: int = 128

    @classmethod
    def parse(cls, spec: str) -> RandAugment:
        """From a string such as "rand-m7-n4-mstd0.5-inc1".

        "rand", then in any order: m magnitude (10 if left out), n number of operations (2), mstd standard deviation of
        the magnitude (0), inc 1 for operations that get stronger with the magnitude (0), p probability (0.5).

        Raises:
            ConfigError: not of this form, an unknown or repeated key, or a value out of range.
        """
        if not isinstance(spec, str):
            raise ConfigError(f"randaugment: must be a text such as rand-m7-n4-mstd0.5-inc1, got {spec!r}")
        first, *sections = spec.split("-")
        if first != "rand":
            raise ConfigError(f"randaugment: must start with 'rand-', as in rand-m7-n4-mstd0.5-inc1, got {spec!r}")
        values: dict[str, float] = {}
        for section in sections:
            match = _SECTION.fullmatch(section)
            if not match:
                raise ConfigError(f"randaugment: {section!r} in {spec!r} is not a key and a number, as m7 is")
            key, value = match[1], float(match[2])
            if key not in _DEFAULTS:
                raise ConfigError(f"randaugment: unknown key {key!r} in {spec!r}; {nearest(key, list(_DEFAULTS))}")
            if key in values:
                raise ConfigError(f"randaugment: {key!r} is given twice in {spec!r}")
            values[key] = value
        values = {**_DEFAULTS, **values}
        _check(spec, values)
        return cls(values["m"], int(values["n"]), values["mstd"], bool(values["inc"]), values["p"])

    def draw(self, rng: np.random.Generator) -> list[Step]:
        """The operations for one clip, in order; those drawn but not applied are left out."""
        steps: list[Step] = []
        for index in rng.integers(len(_NAMES), size=self.num_ops):
            if rng.random() >= self.probability:
                continue
            magnitude = min(max(float(rng.normal(self.magnitude, self.noise)), 0.0), TOP)
            sign = 1 if rng.random() < 0.5 else -1
            steps.append(Step(_NAMES[index], self.strength(_NAMES[index], magnitude, sign)))
        return steps

    def strength(self, name: str, magnitude: float, sign: int) -> float:
        """The strength of an operation at a magnitude from 0 to 10.

        Degrees, shear factor, share of the side, bits kept, threshold, value added, or blend factor (1 is the frame
        itself); 0 for operations that have none. `sign`, 1 or -1, counts where an operation goes both ways.
        """
        share = magnitude / TOP
        if name in _SIGNED:
            return sign * share * _SIGNED[name]
        if name in _BLENDS:
            return max(0.1, 1 + sign * share * 0.9) if self.increasing else 0.1 + share * 1.8
        if name == "SolarizeAdd":
            return int(share * 110)
        largest = {"Posterize": 4, "Solarize": 256}.get(name, 0)
        return largest - int(share * largest) if self.increasing else int(share * largest)

    def __call__(self, frames_THWC: Frames, rng: np.random.Generator) -> Frames:
        """Draw and apply; uint8 RGB frames to the same, and the input is left as it is."""
        for step in self.draw(rng):
            frames_THWC = OPERATIONS[step.name](frames_THWC, step.strength, self.fill)
        return frames_THWC


def _check(spec: str, values: dict[str, float]) -> None:
    for key, low, high, whole in (
        ("m", 0, TOP, False),
        ("n", 1, 100, True),
        ("inc", 0, 1, True),
        ("p", 0, 1, False),
    ):
        value = values[key]
        if not low <= value <= high or (whole and value != int(value)):
            kind = "a whole number" if whole else "a number"
            raise ConfigError(f"randaugment: {key} in {spec!r} must be {kind} from {low:g} to {high:g}, got {value:g}")
