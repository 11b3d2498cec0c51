"""How a document looks: clean, noisy, rotated, printed or photographed; word boxes follow its geometry."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from synthetic.documents.canvas import Point, WordBox

LOOKS = ("clean", "noise", "rotated", "print", "photo")
CORNERS: tuple[Point, ...] = ((0, 0), (1, 0), (1, 1), (0, 1))


def apply_look(
    image: Image.Image, boxes: Sequence[WordBox], look: str, generator: np.random.Generator
) -> tuple[Image.Image, list[WordBox]]:
    """Return the document in a look, with its word boxes: those around the boxes' moved corners."""
    if look == "noise":
        return _add_noise(image, generator), list(boxes)
    if look == "print":
        return _print(image, generator), list(boxes)
    if look == "rotated":
        return _rotate(image, boxes, generator)
    return _photograph(image, boxes, generator) if look == "photo" else (image, list(boxes))


def homography(source: Sequence[Point], target: Sequence[Point]) -> np.ndarray:
    """Return the matrix (3, 3) that maps four points to four others."""
    rows = []
    for (x, y), (u, v) in zip(source, target, strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
    values = np.linalg.solve(np.array(rows, dtype=np.float64), np.array(target, dtype=np.float64).ravel())
    return np.append(values, 1).reshape(3, 3)


def move_boxes(boxes: Sequence[WordBox], matrix: np.ndarray, width: int, height: int) -> list[WordBox]:
    """Return the boxes around the moved corners of boxes, one pixel wider for resampling, inside the image."""
    edges = np.array(boxes, dtype=np.float64)
    corners = edges[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2)  # (n, 4, 2)
    moved = np.concatenate([corners, np.ones((len(edges), 4, 1))], axis=2) @ matrix.T
    moved = moved[..., :2] / moved[..., 2:]
    low, high = np.floor(moved.min(1)) - 1, np.ceil(moved.max(1)) + 1
    limits = np.array([width, height])
    return [
        tuple(row)
        for row in np.concatenate([np.clip(low, 0, limits), np.clip(high, 0, limits)], 1).astype(int).tolist()
    ]


def _blur(image: Image.Image, strength: float) -> Image.Image:
    """Blur by a Gaussian of 3 × 3 pixels, whose standard deviation is `strength`."""
    side, corner = (math.exp(-distance / (2 * strength**2)) for distance in (1, 2))
    return image.filter(ImageFilter.Kernel((3, 3), [corner, side, corner, side, 1, side, corner, side, corner]))


def _warp(image: Image.Image, matrix: np.ndarray, fill: tuple[int, int, int]) -> Image.Image:
    """Move an image's content by a homography."""
    inverse = np.linalg.inv(matrix)
    data = tuple((inverse / inverse[2, 2]).ravel()[:8].tolist())
    return image.transform(image.size, Image.Transform.PERSPECTIVE, data, Image.Resampling.BILINEAR, fillcolor=fill)


def _paper(image: Image.Image) -> tuple[int, int, int]:
    """The colour of the image's first pixel."""
    red, green, blue = np.asarray(image)[0, 0].tolist()
    return red, green, blue


def _corners(image: Image.Image) -> list[Point]:
    return [(x * image.width, y * image.height) for x, y in CORNERS]


def _turned(corners: Sequence[Point], angle: float, scale: float) -> list[Point]:
    """Turn and scale points around their middle."""
    middle_x, middle_y = (sum(point[axis] for point in corners) / len(corners) for axis in (0, 1))
    cosine, sine = scale * math.cos(angle), scale * math.sin(angle)
    moved = [(x - middle_x, y - middle_y) for x, y in corners]
    return [(middle_x + cosine * x - sine * y, middle_y + sine * x + cosine * y) for x, y in moved]


def _rotate(
    image: Image.Image, boxes: Sequence[WordBox], generator: np.random.Generator
) -> tuple[Image.Image, list[WordBox]]:
    """Turn by up to six degrees; the page shrinks only as far as its words would leave the image."""
    angle = math.radians(float(generator.uniform(1, 6)) * (1 if generator.random() < 0.5 else -1))
    corners = _corners(image)
    for scale in np.arange(1.0, 0.7, -0.02).tolist():
        matrix = homography(corners, _turned(corners, angle, scale))
        points = np.array([(x, y, 1) for box in boxes for x in box[::2] for y in box[1::2]]) @ matrix.T
        inside = points[:, :2] / points[:, 2:]
        if inside.min() >= 1 and (inside <= (image.width - 1, image.height - 1)).all():
            break
    return _warp(image, matrix, _paper(image)), move_boxes(boxes, matrix, *image.size)


def _grain(
    width: int, height: int, cells: int, generator: np.random.Generator, limits: tuple[int, int] = (0, 256)
) -> Image.Image:
    """Return a grey image of `cells` × `cells` smooth patches."""
    small = Image.fromarray(generator.integers(*limits, (cells, cells), dtype=np.uint8))
    return small.resize((width, height), Image.Resampling.BICUBIC)


def _image_of(pixels: np.ndarray) -> Image.Image:
    """Return the image of values from 0 to 255 (H, W) or (H, W, 3), in RGB."""
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).convert("RGB")


def _add_noise(image: Image.Image, generator: np.random.Generator) -> Image.Image:
    """Lower the contrast, add noise to each pixel, and set some pixels to black or white."""
    pixels = np.asarray(image, dtype=np.float32)
    contrast, middle = float(generator.uniform(0.6, 1)), float(generator.uniform(110, 160))
    strength = np.float32(generator.uniform(5, 22))
    noise = generator.standard_normal((image.height, image.width, 1), dtype=np.float32) * strength
    pixels = (pixels - 128) * np.float32(contrast) + np.float32(middle) + noise
    spots = generator.random((image.height, image.width), dtype=np.float32)
    share = float(generator.uniform(0, 0.006))
    pixels[spots < share] = 20
    pixels[spots > 1 - share] = 245
    return _image_of(pixels)


def _print(image: Image.Image, generator: np.random.Generator) -> Image.Image:
    """Print in grey: uneven ink, a raster of dots in mid-tones, and specks on tinted paper."""
    light = np.asarray(image.convert("L"), dtype=np.float32) / 255
    ink = (1 - light) * (
        np.float32(generator.uniform(0.5, 0.75)) + np.float32(0.4 / 255) * np.asarray(_grain(*image.size, 7, generator))
    )
    ink *= 1 - np.float32(0.5) * (generator.random(ink.shape, dtype=np.float32) < generator.uniform(0.02, 0.1))
    raster = np.add.outer(np.arange(image.height), np.arange(image.width)) % 3 == 0
    raster &= (ink > 0.12) & (ink < 0.6)
    ink[raster] *= np.float32(generator.uniform(0.3, 0.8))
    specks = generator.random(ink.shape, dtype=np.float32) < generator.uniform(0, 0.002)
    ink[specks] = 0.7
    tint = np.float32(generator.integers(225, 256)) - generator.integers(0, (1, 7, 25)).astype(np.float32)
    grey = _blur(Image.fromarray((np.clip(ink, 0, 1) * 255).astype(np.uint8)), float(generator.uniform(0.3, 0.6)))
    return _image_of((1 - np.asarray(grey, dtype=np.float32)[..., None] / 255) * tint)


def _photograph(
    image: Image.Image, boxes: Sequence[WordBox], generator: np.random.Generator
) -> tuple[Image.Image, list[WordBox]]:
    """Photograph the page on a table: perspective, light from one side, blur, and JPEG."""
    corners, scale = _corners(image), float(generator.uniform(0.84, 0.95))
    jitter = generator.uniform(-0.035, 0.035, (4, 2)) * image.size
    points = _turned(corners, math.radians(float(generator.uniform(-4, 4))), scale)
    target = np.array(points) + jitter
    limits = np.array(image.size) - 1
    span = target.max(0) - target.min(0)
    target = (target - target.min(0)) * np.minimum(1, limits / span) + np.maximum(0, limits - span) / 2
    matrix = homography(corners, [(float(x), float(y)) for x, y in target])
    photo = _tint(_grain(*image.size, 12, generator, (200, 256)), generator.uniform(0.16, 0.8, 3))
    photo.paste(_warp(image, matrix, _paper(image)), (0, 0), _mask(image.size, target))
    light = _gradient(*image.size, float(generator.uniform(0, 2 * math.pi)), float(generator.uniform(0.5, 0.85)))
    photo = ImageChops.multiply(photo, _tint(light, generator.uniform(0.88, 1.0, 3)))
    for _ in range(max(1, round(min(image.size) / 448))):
        photo = _blur(photo, float(generator.uniform(0.35, 0.8)))
    stream = io.BytesIO()
    photo.save(stream, "JPEG", quality=int(generator.integers(45, 90)))
    return Image.open(stream).convert("RGB"), move_boxes(boxes, matrix, *image.size)


def _mask(size: tuple[int, int], corners: np.ndarray) -> Image.Image:
    """Return the mask of the page's quadrilateral."""
    mask = Image.new("L", size)
    ImageDraw.Draw(mask).polygon([(float(x), float(y)) for x, y in corners], fill=255)
    return mask


def _tint(grey: Image.Image, shares: np.ndarray) -> Image.Image:
    """Return a grey image in a colour: shares of red, green and blue."""
    levels = np.arange(256)
    return Image.merge("RGB", [grey.point((levels * share).astype(int).tolist()) for share in shares])


def _gradient(width: int, height: int, angle: float, darkest: float) -> Image.Image:
    """Return a grey image that gets lighter in one direction, from a share of white to white."""
    steps = np.linspace(-1, 1, 64)
    ramp = np.add.outer(math.sin(angle) * steps, math.cos(angle) * steps)
    ramp = (ramp - ramp.min()) / (ramp.max() - ramp.min())
    small = Image.fromarray((255 * (darkest + (1 - darkest) * ramp)).astype(np.uint8))
    return small.resize((width, height), Image.Resampling.BILINEAR)
