"""Pictures changed at random in ways that leave their class: turned, shifted, lit otherwise."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aimass_cloud.datasets.symmetry import TURNS

Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Augmentation:
    """What is done to training pictures.

    Attributes:
        turns: names of `symmetry.TURNS`, each done to half of the pictures.
        shift: largest, in pixels; what is then missing is mirrored from inside.
        light: largest change of brightness and of contrast, as a share of the spread.
        mean, spread: of the pixels of each channel, `[C]`, in 0..1.
    """

    turns: Sequence[str]
    shift: int
    light: float
    mean: Floats
    spread: Floats

    def __call__(self, pixels: NDArray[np.uint8], random: np.random.Generator) -> Floats:
        """Pictures `[n, C, H, W]`, 0 and 1 black and white; light may take them a little out."""
        changed = self._shifted(pixels, random)
        for name in self.turns:
            chosen = random.random(len(pixels)) < 0.5  # noqa: PLR2004  half of them
            changed[chosen] = TURNS[name](changed[chosen])
        return self._lit(np.divide(changed, 255, dtype=np.float32), random)

    def _shifted(self, pixels: NDArray[np.uint8], random: np.random.Generator) -> NDArray[np.uint8]:
        height, width = pixels.shape[-2:]
        margin = self.shift
        edge = (margin, margin)
        padded = np.pad(pixels, ((0, 0), (0, 0), edge, edge), mode="reflect")
        starts = random.integers(0, 2 * margin, size=(len(pixels), 2), endpoint=True)
        return np.stack(
            [
                one[:, top : top + height, left : left + width]
                for one, (top, left) in zip(padded, starts, strict=True)
            ]
        )

    def _lit(self, pixels: Floats, random: np.random.Generator) -> Floats:
        shape = (len(pixels), 1, 1, 1)
        contrast = np.exp(random.uniform(-1, 1, shape) * self.light).astype(np.float32)
        brightness = (random.uniform(-1, 1, shape) * self.light).astype(np.float32)
        mean, spread = (values.reshape(-1, 1, 1) for values in (self.mean, self.spread))
        lit: Floats = mean + (pixels - mean) * contrast + spread * brightness
        return lit
