"""Change photographs in ways that are not in the training data: a robust model still classifies them.

Each change takes an image and a random generator, and returns another RGB image.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from PIL import Image, ImageFilter, ImageOps, ImageStat

from perception_encoder.evaluation.embeddings import Embeddings
from perception_encoder.inference.encoder import Encoder
from perception_encoder.preprocess.image import plain_image

Change = Callable[[Image.Image, np.random.Generator], Image.Image]

TURN = (20.0, 60.0)  # degrees, to either side
HIDDEN = 0.3  # share of the image's area
HUES = 256  # of Pillow's HSV


class ChangedEmbeddings(Embeddings):
    """Embeddings of a model that sees every image changed."""

    def __init__(self, encoder: Encoder, change: Change, seed: int = 0) -> None:
        super().__init__(encoder)
        self.change = change
        self._generator = np.random.default_rng(seed)

    def encode(self, images: Sequence[Image.Image], normalize: bool = True) -> np.ndarray:
        """Return embeddings (B, D), float32, of the changed images."""
        return super().encode([self.change(plain_image(image), self._generator) for image in images], normalize)


def grey(image: Image.Image, generator: np.random.Generator) -> Image.Image:
    """Remove colour."""
    return image.convert("L").convert("RGB")


def line_art(image: Image.Image, generator: np.random.Generator) -> Image.Image:
    """Keep only edges, dark on white."""
    smooth = image.convert("L").filter(ImageFilter.GaussianBlur(1))
    edges = smooth.filter(ImageFilter.FIND_EDGES).crop((1, 1, image.width - 1, image.height - 1))  # without the rim
    return ImageOps.invert(ImageOps.autocontrast(edges, cutoff=(0, 1))).resize(image.size).convert("RGB")


def turned(image: Image.Image, generator: np.random.Generator) -> Image.Image:
    """Turn by 20 to 60 degrees to either side; the corners get the mean colour."""
    degrees = generator.uniform(*TURN) * generator.choice((-1, 1))
    return image.rotate(degrees, Image.Resampling.BILINEAR, fillcolor=_mean_colour(image))


def occluded(image: Image.Image, generator: np.random.Generator) -> Image.Image:
    """Cover a random rectangle of 30 % of the area with the mean colour."""
    size = tuple(max(1, round(side * HIDDEN**0.5)) for side in image.size)
    corner = tuple(int(generator.integers(side - part + 1)) for side, part in zip(image.size, size, strict=True))
    hidden = image.copy()
    hidden.paste(_mean_colour(image), (*corner, corner[0] + size[0], corner[1] + size[1]))
    return hidden


def shifted_colour(image: Image.Image, generator: np.random.Generator) -> Image.Image:
    """Rotate all hues by a third to two thirds of the circle."""
    hue, saturation, value = image.convert("HSV").split()
    shift = int(generator.integers(HUES // 3, 2 * HUES // 3))
    turned_hue = hue.point([(level + shift) % HUES for level in range(HUES)])
    return Image.merge("HSV", (turned_hue, saturation, value)).convert("RGB")


CHANGES: Mapping[str, Change] = {
    "grey": grey,
    "line art": line_art,
    "turned": turned,
    "occluded": occluded,
    "shifted colour": shifted_colour,
}


def _mean_colour(image: Image.Image) -> tuple[int, ...]:
    return tuple(round(value) for value in ImageStat.Stat(image).mean)
