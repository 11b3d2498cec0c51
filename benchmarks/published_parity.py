"""Compare embeddings of 20 images and 20 texts with those of the published code, given the same weights.

    python -m benchmarks.published_parity PE-Core-T16-384 --reference perception_models -o parity.json
    python -m benchmarks.published_parity weights.pt --stored reference.npz -o parity.json

`--reference` is a checkout of github.com/facebookresearch/perception_models, whose code downloads the weights itself;
`--stored` has outputs of that code for a checkpoint of yours: `images` and `texts`, (20, D) each. The exit status
is 1 if a cosine similarity is below 0.9999.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import skimage
from PIL import Image

import perception_encoder as pe

COUNT, LEAST = 20, 0.9999
PHOTOGRAPHS = ("astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg")
TEXTS = [
    f"{view} of {subject}"
    for view in ("a photo", "a drawing", "two", "the shadow")
    for subject in ("a cat", "a mug", "an astronaut", "a motorbike", "the moon")
]
REFERENCE = """\
import sys
from pathlib import Path
import numpy as np, torch
from PIL import Image
import core.vision_encoder.pe as pe
import core.vision_encoder.transforms as transforms
name, source, target = sys.argv[1:]
model = pe.CLIP.from_config(name, pretrained=True).eval()
transform = transforms.get_image_transform(model.image_size)
images = torch.stack([transform(Image.open(path)) for path in sorted(Path(source).glob("*.png"))])
texts = transforms.get_text_tokenizer(model.context_length)(Path(source, "texts.txt").read_text().splitlines())
with torch.no_grad():
    found = [torch.cat([model.encode_image(image[None], normalize=True) for image in images])]
    found.append(model.encode_text(texts, normalize=True))
np.savez(target, images=found[0].numpy(), texts=found[1].numpy())
"""
"""A program for the published code, which runs with the checkout's dependencies."""


def images() -> list[Image.Image]:
    """Return four crops of each of five photographs."""
    crops = []
    for name in PHOTOGRAPHS:
        photograph = Image.open(Path(skimage.__file__).parent / "data" / name).convert("RGB")
        width, height = photograph.width * 2 // 3, photograph.height * 2 // 3
        corners = [(x, y) for x in (0, photograph.width - width) for y in (0, photograph.height - height)]
        crops += [photograph.crop((x, y, x + width, y + height)) for x, y in corners]
    return crops


def run_reference(name: str, checkout: Path, python: str) -> dict[str, np.ndarray]:
    """Return what the published code computes."""
    with tempfile.TemporaryDirectory() as directory:
        for number, image in enumerate(images()):
            image.save(Path(directory) / f"{number:02}.png")
        (Path(directory) / "texts.txt").write_text("\n".join(TEXTS), encoding="utf-8")
        target = Path(directory) / "found.npz"
        subprocess.run([python, "-c", REFERENCE, name, directory, str(target)], cwd=checkout, check=True)
        return dict(np.load(target))


def compare(name: str, theirs: dict[str, np.ndarray]) -> dict[str, object]:
    """Return the lowest cosine similarity and the largest difference of unit vectors, of images and of texts."""
    encoder = pe.load(name, runtime="torch", precision="float32")
    ours = {"images": encoder.encode_images(images()), "texts": encoder.encode_texts(TEXTS)}
    row: dict[str, object] = {"model": name}
    for kind, vectors in ours.items():
        if theirs[kind].shape != vectors.shape:
            raise SystemExit(f"{kind}: the reference has {theirs[kind].shape}, this package {vectors.shape}")
        row[kind] = {
            "cosine": float((vectors * theirs[kind]).sum(-1).min()),
            "difference": float(np.abs(vectors - theirs[kind]).max()),
        }
    return row


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare, write and print; exit with 1 if they differ."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model")
    given = parser.add_mutually_exclusive_group(required=True)
    given.add_argument("--reference", type=Path, help="checkout of the published code")
    given.add_argument("--stored", type=Path, help="its outputs, in an .npz file")
    parser.add_argument("--python", default=sys.executable, help="the interpreter that has the checkout's dependencies")
    parser.add_argument("-o", "--out", type=Path, required=True)
    args = parser.parse_args(arguments)
    theirs = dict(np.load(args.stored)) if args.stored else run_reference(args.model, args.reference, args.python)
    row = compare(args.model, theirs)
    args.out.write_text(json.dumps(row, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(row))
    if any(row[kind]["cosine"] < LEAST for kind in ("images", "texts")):  # type: ignore[index]
        raise SystemExit(1)


if __name__ == "__main__":
    main()
