"""Quantise a converted tower to int8 with nncf, and check that nearest neighbours stay the same.

Calibration uses procedural images and texts of common words, so that a model's int8 version depends on its weights
alone. Activations outside the calibrated ranges are clipped, so the images include extremes, such as a white
background. A tower that fails the check with both methods stays in bfloat16.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Iterable
from contextlib import redirect_stdout
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Literal

import numpy as np
from jaxtyping import Float, Int, UInt8

from perception_encoder.errors import needs_extra
from perception_encoder.vectors import unit_rows

if TYPE_CHECKING:
    import openvino

Method = Literal["static", "weights"]
"""`static`: calibrated ranges of activations. `weights`: ranges found in each call, if that fails the check."""
LEAST_COSINE = 0.999
"""Minimum cosine between an embedding in int8 and in float32, on the check's inputs; others' may be lower."""
LEAST_AGREEMENT = 0.9
"""Minimum share of the check's inputs whose nearest neighbour stays the same."""
CALIBRATION_IMAGES, CALIBRATION_TEXTS, CHECK_IMAGES = 20, 96, 16
"""Of procedural images; those of `extreme_images` come on top."""
_CALIBRATION_SEED, _CHECK_SEED = 2504, 13181
_FIRST_BLOCKS = r".*\.(resblocks|layers?|blocks|h)\.[01][./].*"
"""Names of the operations in the first two blocks of a text tower, of any library."""
LONGEST = 126
"""Words of the longest calibration text for other libraries' models, which may take longer ones."""
_COLOURS = ("red", "blue", "green", "black", "white", "yellow", "orange", "grey")
_THINGS = ("dog", "mug", "mountain", "bicycle", "piano", "receipt", "bowl of soup", "crowd in a street")
_TEMPLATES = ("a {} {}", "a photo of a {} {} on a table, seen from above")
_WORDS = (
    "the a of and in on with at to by is are its this from near under over behind while next front very old young "
    "small large wooden bright dark yellow pink photo picture drawing painting view group pair couple man woman "
    "people child girl boy family player cat horse bird cow bear sheep car bus train boat plane truck street road "
    "city house room kitchen door window wall floor bed chair bench sofa desk lamp clock phone book paper sign letter "
    "number water river sea beach sky cloud snow rain sun tree grass flower field garden park hill rock bridge tower "
    "food plate cup knife bread cheese fruit apple banana cake pizza coffee wine ball racket board skis kite hat "
    "shirt dress shoe bag sitting standing walking running holding looking eating playing riding flying waiting 2 7 "
    "10 1984 . , - ' ! ?"
)


@dataclass(frozen=True)
class Verdict:
    """How close int8 embeddings are to float32 ones."""

    cosine: float
    """The smallest of all inputs."""
    agreement: float
    """Share of inputs with the same nearest neighbour."""

    @property
    def passed(self) -> bool:
        """Whether the tower can be used."""
        return self.cosine >= LEAST_COSINE and self.agreement >= LEAST_AGREEMENT

    def __str__(self) -> str:
        return f"minimum cosine to float32 {self.cosine:.5f}, {self.agreement:.0%} of nearest neighbours kept"


def check(found: Float[np.ndarray, "n D"], expected: Float[np.ndarray, "n D"]) -> Verdict:
    """Compare embeddings of the check's inputs with float32's."""
    first, second = unit_rows(found.astype(np.float64)), unit_rows(expected.astype(np.float64))
    nearest = []
    for rows in (first, second):
        similarities = rows @ rows.T
        np.fill_diagonal(similarities, -np.inf)
        nearest.append(similarities.argmax(axis=1))
    return Verdict(float((first * second).sum(axis=1).min()), float((nearest[0] == nearest[1]).mean()))


def quantize(model: openvino.Model, method: Method, samples: Iterable[np.ndarray] = ()) -> openvino.Model:
    """Return a converted tower in int8; `samples`: calibration inputs of the static method, each without a batch axis.

    Raises MissingExtraError without nncf.
    """
    with needs_extra("fast", "nncf"):
        import nncf
    logging.getLogger("nncf").setLevel(logging.ERROR)
    with redirect_stdout(io.StringIO()):  # where it draws bars
        if method == "weights":
            return nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_ASYM)
        return _quantize_static(model, samples)


def _quantize_static(model: openvino.Model, samples: Iterable[np.ndarray]) -> openvino.Model:
    """Quantise the linear layers of the blocks, except those of a text tower's first two.

    nncf's default for transformers clips and smooths activations: the built-in model's minimum cosine on photographs is
    then 0.75. With full ranges, no smoothing, and patch embedding, attention and pooling in float, which cost little
    time, it is 0.9997. A text tower's first blocks read token embeddings, whose ranges no calibration covers: with them
    in int8, the minimum cosine is 0.996 on real captions, without 0.9996.
    """
    import nncf
    from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters, AdvancedSmoothQuantParameters
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet

    inputs = [sample[None] for sample in samples]
    floats = [".*(conv1|patch_embed).*", ".*attn_pool.*", ".*aten::matmul.*"]  # and projections
    if model.input(0).element_type.get_type_name() == "i64":  # token ids
        floats.append(_FIRST_BLOCKS)
    return nncf.quantize(
        model,
        nncf.Dataset(inputs),
        preset=nncf.QuantizationPreset.MIXED,  # ranges of activations need not be symmetric
        model_type=nncf.ModelType.TRANSFORMER,
        subset_size=len(inputs),
        ignored_scope=nncf.IgnoredScope(patterns=floats, types=["ScaledDotProductAttention"], validate=False),
        advanced_parameters=AdvancedQuantizationParameters(
            activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX,
            smooth_quant_alphas=AdvancedSmoothQuantParameters(convolution=-1, matmul=-1),
        ),
    )


def calibration_pixels(height: int, width: int) -> UInt8[np.ndarray, "n 3 H W"]:
    """Return the images that ranges are found on."""
    return _images(CALIBRATION_IMAGES, height, width, _CALIBRATION_SEED)


def calibration_ids(context_length: int) -> list[Int[np.ndarray, " T"]]:
    """Return token ids of the calibration texts for this package's models."""
    from perception_encoder.preprocess.tokenizer import Tokenizer, trim

    tokenizer = Tokenizer(context_length, warns=False)
    return [trim(ids[None])[0] for ids in tokenizer.ids(calibration_texts(context_length - 2))]


def calibration_texts(longest: int = LONGEST) -> list[str]:
    """Return the texts that ranges are found on: up to `longest` words in any order, of all lengths."""
    draw, words = np.random.RandomState(_CALIBRATION_SEED), _WORDS.split()
    lengths = np.linspace(1, longest, CALIBRATION_TEXTS).astype(int)
    return [" ".join(words[draw.randint(len(words))] for _ in range(length)) for length in lengths]


def check_images(height: int, width: int) -> UInt8[np.ndarray, "n 3 H W"]:
    """Return the images that an int8 tower is checked on: others than it was calibrated on, but for the flat ones."""
    return _images(CHECK_IMAGES, height, width, _CHECK_SEED)


def _images(procedural: int, height: int, width: int, seed: int) -> UInt8[np.ndarray, "n 3 H W"]:
    return np.concatenate([procedural_images(procedural, height, width, seed), extreme_images(height, width, seed)])


def check_captions() -> list[str]:
    """Return the captions that an int8 text tower is checked on."""
    return [template.format(colour, item) for template, colour, item in product(_TEMPLATES, _COLOURS[:4], _THINGS)]


def check_ids(context_length: int) -> Int[np.ndarray, "n T"]:
    """Return the captions' token ids for this package's models."""
    from perception_encoder.preprocess.tokenizer import Tokenizer, trim

    return trim(Tokenizer(context_length, warns=False).ids(check_captions()))


def extreme_images(height: int, width: int, seed: int) -> UInt8[np.ndarray, "16 3 H W"]:
    """Draw the corners of the colour cube, black and white among them: flat, and each beside its complement.

    These are stripes and checks of 1 to 32 pixels. The same bits on every machine, as of `procedural_images`.
    """
    draw = np.random.RandomState(seed)
    rows, columns = np.mgrid[:height, :width]
    images = np.empty((16, 3, height, width), np.uint8)
    for number, image in enumerate(images):
        corner = (number >> np.arange(3) & 1)[:, None, None]
        cell = 1 << draw.randint(0, 6)
        pattern = (rows // cell, columns // cell, rows // cell + columns // cell)[draw.randint(3)] % 2
        image[:] = 255 * (corner ^ pattern if number >= 8 else corner)
    return images


def procedural_images(count: int, height: int, width: int, seed: int) -> UInt8[np.ndarray, "n 3 H W"]:
    """Draw coloured clouds with edges in front: noise of all scales, rectangles, discs and strokes like writing.

    The same bits on every machine: integers, and numpy's frozen generator.
    """
    draw = np.random.RandomState(seed)
    rows, columns = np.mgrid[:height, :width]
    images = np.empty((count, 3, height, width), np.uint8)
    for image in images:
        clouds = np.zeros((3, height, width), np.int64)
        cells, weight = 2, 256
        while cells <= max(height, width) // 2:
            clouds += weight * _smooth(draw.randint(-128, 128, (3, cells + 1, cells + 1)), height, width)
            cells, weight = 2 * cells, max(16, weight // 2)
        low, high = int(clouds.min()), int(clouds.max())
        darkest, range_ = draw.randint(0, 96), draw.randint(96, 160)
        image[:] = darkest + (clouds - low) * range_ // max(1, high - low)
        for _ in range(draw.randint(0, 7)):
            top, left = draw.randint(0, height), draw.randint(0, width)
            size, other = draw.randint(2, max(3, height // 2)), draw.randint(2, max(3, width // 2))
            kind, colour = draw.randint(3), draw.randint(0, 256, 3).astype(np.uint8)
            if kind == 0:
                inside = (abs(rows - top) < size // 2) & (abs(columns - left) < other // 2)
            elif kind == 1:
                inside = (rows - top) ** 2 + (columns - left) ** 2 < size * size // 4
            else:  # lines of short strokes
                inside = (abs(rows - top) < size // 4) & (abs(columns - left) < other)
                inside &= (rows % 7 < 3) & ((columns * 5 + rows // 7 * 3) % 11 < 6)
            image[:, inside] = colour[:, None]
    return images


def _smooth(grid: np.ndarray, height: int, width: int) -> np.ndarray:
    """Interpolate a grid (3, n + 1, n + 1) to (3, height, width), in integers."""
    for axis, side in ((1, height), (2, width)):
        places = np.arange(side) * ((grid.shape[axis] - 1) << 8) // side
        cell, part = places >> 8, places & 255
        part = part.reshape((-1, 1) if axis == 1 else (-1,))
        grid = (grid.take(cell, axis) * (256 - part) + grid.take(cell + 1, axis) * part) >> 8
    return grid
