"""Draw the README's picture, docs/images/gallery.webp: four columns of photographs and what is made of them.

    python docs/gallery_picture.py [FILE]

`make docs` runs it. The photographs are scikit-image's and scikit-learn's, the models the built-in ones.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import matplotlib
import skimage
import sklearn
from PIL import Image, ImageDraw, ImageFont

import perception_encoder as pe
from perception_encoder.dense_prediction.predictions import draw_objects
from perception_encoder.inference.feature_map import to_colours
from perception_encoder.inference.samples import CLIP, write_samples

PICTURE = Path(__file__).parent / "images" / "gallery.webp"
PHOTOGRAPHS = Path(skimage.__file__).parent / "data"
FLOWER = Path(sklearn.__file__).parent / "datasets" / "images" / "flower.jpg"
FONTS = Path(matplotlib.get_data_path()) / "fonts" / "ttf"

CELL, GAP, CAPTION = (420, 280), 14, 54
"""Width and height of a photograph, the space between two, and the height of a column's caption, in pixels."""
INK = "#23201d"
SEARCHES = (("a ginger cat", "chelsea.png"), ("region-based segmentation", "page.png"))
"""Queries, and the photograph that must be the best hit of each: by meaning, and by words in it."""
ORANGE = (226, 88, 20)
"""The colour of the box around words."""
OBJECTS = ((0.10, 0.55, 0.40, 0.95), (0.72, 0.60, 0.93, 0.95))
"""Boxes around the wheels of the motorcycle, as its left camera sees it."""
POINT = (0.48, 0.5)
"""A point on the flower."""
BLUE = 4
"""A number of an object that is drawn in blue, which the flower lacks."""
PATCHES = 56
"""Longer side of a map of features, in patches."""

Column = tuple[str, Image.Image, Image.Image]
"""A caption, and the photographs below it."""


def search() -> Column:
    """Return the best hits of two queries among the demo's photographs; ValueError if a hit is another."""
    found = []
    with tempfile.TemporaryDirectory() as directory:
        photographs, _ = write_samples(Path(directory))
        (photographs / CLIP).unlink()
        pe.open_index(photographs, "builtin", words=True).update()
        index = pe.open_index(photographs)
        for query, expected in SEARCHES:
            hit = index.search(query, top=1)[0]
            if Path(hit.path).name != expected or bool(hit.lines) != (expected == "page.png"):
                raise ValueError(f"the best hit of {query!r} is {hit.path} {hit.why}, not {expected}")
            found.append((fit(Image.open(PHOTOGRAPHS / expected)), hit))
    (upper, _), (_, by_words) = found
    return "search", with_query(upper, SEARCHES[0][0], 20), with_query(page(by_words), SEARCHES[1][0], CELL[1] - 50)


def page(hit: pe.Hit) -> Image.Image:
    """Return the hit's whole image at the top of a white cell, with a box around its best line."""
    image = Image.open(PHOTOGRAPHS / Path(hit.path).name).convert("RGB")
    image = image.resize((CELL[0], round(image.height * CELL[0] / image.width)), Image.Resampling.LANCZOS)
    box = hit.lines[0].box
    corners = [(x * image.width, y * image.height) for x, y in zip(box[::2], box[1::2], strict=True)]
    ImageDraw.Draw(image).polygon(corners, outline=ORANGE, width=4)
    cell = Image.new("RGB", CELL, "white")
    cell.paste(image)
    return cell


def with_query(image: Image.Image, query: str, y: int) -> Image.Image:
    """Return the image with the query in a white field on its left."""
    pen, font = ImageDraw.Draw(image), ImageFont.truetype(FONTS / "DejaVuSans.ttf", 25)
    left, top, right, bottom = pen.textbbox((26, y), query, font=font)
    pen.rounded_rectangle((left - 14, top - 10, right + 14, bottom + 10), 8, fill="white", outline=INK, width=2)
    pen.text((26, y), query, font=font, fill=INK)
    return image


def features() -> Column:
    """Return a photograph, and the principal components of its features as colours."""
    image = Image.open(PHOTOGRAPHS / "coffee.png")
    layers = pe.load_layers("builtin-spatial")
    h, w = (round(side * PATCHES / image.width) for side in (image.height, image.width))
    tokens = layers.maps([image], (h * layers.patch_size, w * layers.patch_size))[0]
    drawn = Image.fromarray(to_colours(tokens)).resize(CELL, Image.Resampling.NEAREST)
    return "features", fit(image), drawn


def tracking() -> Column:
    """Return the two views of a motorcycle's stereo pair, with the wheels of the first found in the second."""
    with tempfile.TemporaryDirectory() as directory:
        for number, side in enumerate(("left", "right")):
            Image.open(PHOTOGRAPHS / f"motorcycle_{side}.png").save(Path(directory) / f"{number:05}.png")
        frames = pe.track(directory, boxes=OBJECTS, model="builtin-spatial")
        first, second = (fit(draw_objects(frame.image, frame.labels)) for frame in frames)
    return "tracking", first, second


def segmentation() -> Column:
    """Return a photograph with a point, and the region whose features resemble the point's."""
    image = Image.open(FLOWER)
    region = pe.segment(image, points=[POINT], model="builtin-spatial").labels > 0
    marked, (x, y) = image.copy(), (POINT[0] * image.width, POINT[1] * image.height)
    ImageDraw.Draw(marked).circle((x, y), 12, fill="white", outline=INK, width=4)
    return "segmentation", fit(marked), fit(draw_objects(image, BLUE * region.astype(int)))


def fit(image: Image.Image) -> Image.Image:
    """Return the middle of an image, as large as a cell."""
    scale = min(image.width / CELL[0], image.height / CELL[1])
    margins = (image.width - scale * CELL[0]) / 2, (image.height - scale * CELL[1]) / 2
    box = (*margins, image.width - margins[0], image.height - margins[1])
    return image.convert("RGB").resize(CELL, Image.Resampling.LANCZOS, box)


def arrange(columns: list[Column]) -> Image.Image:
    """Return the columns side by side on white."""
    width = len(columns) * (CELL[0] + GAP) - GAP
    canvas = Image.new("RGB", (width, CAPTION + 2 * CELL[1] + GAP), "white")
    pen, font = ImageDraw.Draw(canvas), ImageFont.truetype(FONTS / "DejaVuSans.ttf", 30)
    for at, (caption, upper, lower) in enumerate(columns):
        left = at * (CELL[0] + GAP)
        pen.text((left + CELL[0] / 2, CAPTION / 2 - 4), caption, font=font, fill=INK, anchor="mm")
        canvas.paste(upper, (left, CAPTION))
        canvas.paste(lower, (left, CAPTION + CELL[1] + GAP))
    return canvas


def main(target: Path) -> None:
    """Write the picture."""
    arrange([search(), features(), tracking(), segmentation()]).save(target, quality=85, method=6)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else PICTURE)
