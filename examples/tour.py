"""Tour the public calls on your own files, offline with the built-in demo models.

    python examples/tour.py photos/ photo.jpg clip.mp4

Needs the extras `search`, `lang` and `eval`.
"""

from __future__ import annotations

import argparse

import perception_encoder as pe


def main() -> None:
    """Search, classify, ask, locate and compare, each in a call or two."""
    parser = argparse.ArgumentParser()
    parser.add_argument("directory", help="the images to search")
    parser.add_argument("photo", help="the image to describe")
    parser.add_argument("clip", help="the video to track in")
    arguments = parser.parse_args()
    photo = arguments.photo

    encoder = pe.load("builtin")  # or "PE-Core-L14-336"
    image, text = encoder.encode([photo, "a red mug"])
    print(f"similarity {image @ text:.3f}")

    index = pe.open_index(arguments.directory, encoder)
    index.update()
    for hit in index.search("a red mug", top=3):
        print(f"{hit.score:.3f}  {hit.path}")
    (labelled,) = pe.classify(photo, ["mug", "dog", "flower"], model=encoder)
    print(f"probably a {labelled.labels[0].label}")

    assistant = pe.load_assistant("builtin-lang")  # or "facebook/Perception-LM-1B"
    print(assistant.ask(photo, "What is in the image?", max_tokens=16))

    (depth,) = pe.depth(photo, head="builtin-depth")
    (found,) = pe.detect(photo, head="builtin-detector")
    print(f"{len(found.boxes)} objects; depth {depth.depth.min():.2f} to {depth.depth.max():.2f}")
    for frame in pe.track(arguments.clip, points=[(0.4, 0.5)], model="builtin-spatial"):
        print(frame.name, [region.bbox for region in frame.objects])

    print(f"{len(pe.list_recipes())} recipes; PE-Core-G takes {pe.plan('core_g14', devices=512).hours():.0f} hours")


if __name__ == "__main__":
    main()
