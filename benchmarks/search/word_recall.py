"""How well words in images are read and found: `python -m benchmarks.search.word_recall HOME`.

HOME is a directory for the images (`benchmarks.search.word_images`) and their index; a second run uses both again.
Photographs are those of PE_TEST_DATA. docs/results/words.tsv has words that a language model saw in some of them,
looking at all before any had been read, and the names of the photographs in which it saw them. Left out are mirrored
words and what it could not read itself. `--index JSON` adds the figures of `benchmarks.search.words`.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from difflib import SequenceMatcher
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

from PIL import Image, ImageDraw, ImageFont

import perception_encoder as pe
from benchmarks.search.word_images import FONTS, copy_photographs, draw_images
from perception_encoder.evaluation.statistics.bootstrap import wilson_ends
from perception_encoder.search.index import find_stores
from perception_encoder.search.lookup import query_words, text_words
from perception_encoder.search.ranking import rows_with_words
from perception_encoder.words import reader

RESULTS = Path(__file__).parent.parent.parent / "docs" / "results"
WAYS = {"both": "", "words": "words:", "meaning": "meaning:"}
ABSENT = (
    "passport",
    "Reykjavik",
    "invoice",
    "boarding pass",
    "microscope",
    "Beethoven",
    "xylophone",
    "quantum physics",
)
ABSENT += ("zebra crossing", "7f3e91")
LAST_OF_COCO = "c/084.jpg"
SIDES = (736, 480, 320)
TIMED = 48  # images of each set
LINES = {
    "English": "The quick brown fox jumps over the lazy dog",
    "German": "Fünf Straßenbäume, süße Äpfel und Öl",
    "French": "Le garçon fêtait Noël à l'hôpital près du château",
    "Polish": "Zażółć gęślą jaźń w Łodzi",
    "Czech": "Příliš žluťoučký kůň úpěl ďábelské ódy",
    "Turkish": "Pijamalı hasta yağız şoföre çabucak güvendi",
    "Vietnamese": "Tiếng Việt có nhiều dấu thanh",
    "Greek": "Ξεσκεπάζω την ψυχοφθόρα βδελυγμία",
    "Russian": "Съешь ещё этих мягких французских булок",
    "Hebrew": "דג סקרן שט בים מאוכזב",
    "Arabic": "نص حكيم له سر قاطع",
    "Chinese": "我喜欢在图书馆看书",
    "Japanese": "図書館で本を読むのが好きです",
    "Korean": "나는 도서관에서 책을 읽는다",
    "Hindi": "मुझे पुस्तकालय पसंद है",
    "Thai": "ฉันชอบอ่านหนังสือ",
}


FONT_OF = {
    "Chinese": "wqy-zenhei.ttc",
    "Japanese": "ipag.ttf",
    "Korean": "NanumGothic.ttf",
    "Hindi": "Lohit-Devanagari.ttf",
    "Thai": "Garuda.ttf",
}


def share(right: Iterable[bool]) -> dict[str, float]:
    """Return a share with its number of items and Wilson's interval."""
    values = list(right)
    value = sum(values) / len(values)
    return {"value": value, "n": len(values), "interval": list(wilson_ends(value, len(values)))}


def recall(index: pe.Index, home: Path, queries: Sequence[tuple[str, set[str]]]) -> dict[str, Any]:
    """Return how often a right image is the first, and among the first five, each way of searching."""
    found = {}
    for way, prefix in WAYS.items():
        results = index.search([prefix + query for query, _ in queries], top=5).by_query
        hits = [[str(Path(hit.path).relative_to(home)) for hit in some] for some in results]
        found[way] = {
            f"r{top}": share(bool(right & set(some[:top])) for some, (_, right) in zip(hits, queries, strict=True))
            for top in (1, 5)
        }
    return found


def wrong_hits(index: pe.Index) -> dict[str, int]:
    """Return how many of the ten best hits of queries without any word in the collection are hits by words."""
    hits = [hit for some in index.search(list(ABSENT)).by_query for hit in some]
    return {"queries": len(ABSENT), "hits": len(hits), "by_words": sum(bool(hit.why) for hit in hits)}


def captions(data: Path, paths: dict[str, str]) -> list[tuple[str, set[str]]]:
    """Return COCO's captions, each with its photograph's path."""
    content = json.loads((data / "coco" / "annotations.json").read_text(encoding="utf-8"))
    of_image = {paths[image["file_name"]]: content["captions"][str(image["id"])] for image in content["images"]}
    return [(caption, {path}) for path, texts in of_image.items() for caption in texts]


def changed(index: pe.Index, queries: Sequence[tuple[str, set[str]]]) -> int:
    """Return how many queries have other hits with words than by meaning alone, or others in order."""
    by_way = (index.search([WAYS[way] + query for query, _ in queries]).by_query for way in ("both", "meaning"))
    return sum([hit.id for hit in one] != [hit.id for hit in other] for one, other in zip(*by_way, strict=True))


def labelled(paths: dict[str, str]) -> list[tuple[str, set[str]]]:
    """Return the words that were seen in photographs, each with the paths of these."""
    with (RESULTS / "words.tsv").open(encoding="utf-8", newline="") as table:
        rows = list(csv.DictReader(table, delimiter="\t"))
    return [(row["query"], {paths[name] for name in row["images"].split()}) for row in rows]


def reading(home: Path, queries: dict[str, str]) -> dict[str, Any]:
    """Return how many of the words that are asked for were read, exactly or nearly, and which letters were not."""
    lines = {row.path: texts for _, row, texts in rows_with_words(find_stores([str(home)], None))}
    counts, letters = Counter[str](), Counter[str]()
    for path, query in queries.items():
        there = text_words("\n".join(lines[path]))
        for word in query_words(query):
            near = max(there, key=lambda other: SequenceMatcher(None, word, other).ratio(), default="")
            codes = [c for c in SequenceMatcher(None, word, near).get_opcodes() if c[0] != "equal"]
            wrong = sum(max(c[2] - c[1], c[4] - c[3]) for c in codes)
            counts["exact" if word in there else "one letter wrong" if wrong == 1 else "otherwise"] += 1
            if word not in there and wrong <= 2:
                letters.update(f"{word[c[1] : c[2]] or '–'} → {near[c[3] : c[4]] or '–'}" for c in codes)
    return {"words": dict(counts), "letters": dict(letters.most_common(12))}


def sizes(home: Path, queries: dict[str, str]) -> dict[str, Any]:
    """Return CPU time an image, kept lines, and the share of the asked words that are read, by the detector's size."""
    paths = {name: sorted((home / name).iterdir())[: 4 * TIMED : 4] for name in "abc"}
    one = reader.WordReader.shared()
    seconds: dict[tuple[str, int], list[float]] = {}
    kept, words = Counter[tuple[str, int]](), dict[tuple[str, int], list[bool]]()
    for name, of_set in paths.items():
        for path in of_set:
            image = reader.open_image(path)
            for side in SIDES:  # in turn, since others use the machine too
                start = time.process_time()
                with patch.object(reader, "DETECTED_SIDE", side):
                    lines = one.read(image, path.name)
                seconds.setdefault((name, side), []).append(time.process_time() - start)
                kept[name, side] += len(lines)
                there = set(text_words("\n".join(line.text for line in lines)))
                asked = query_words(queries.get(f"{name}/{path.name}", ""))
                words.setdefault((name, side), []).extend(word in there for word in asked)
    return {
        name: {
            str(side): {
                "cpu_seconds": median(seconds[name, side]),
                "lines": kept[name, side],
                "words": share(words[name, side]) if words[name, side] else None,
            }
            for side in SIDES
        }
        for name in paths
    }


def scripts(fonts: Path) -> dict[str, float]:
    """Return how much of a drawn line in each language is read: the ratio of equal letters, without marks."""
    ratios = {}
    for language, text in LINES.items():
        path = next(fonts.rglob(FONT_OF[language]), None) if language in FONT_OF else FONTS[0]
        if path is None:
            continue
        image = Image.new("RGB", (1200, 160), "white")
        ImageDraw.Draw(image).text((40, 60), text, "black", ImageFont.truetype(path, 40))
        read = " ".join(line.text for line in pe.read_words(image))
        plain = [" ".join(text_words(one)) for one in (text, read)]
        ratios[language] = round(SequenceMatcher(None, *plain, autojunk=False).ratio(), 3)
    return ratios


def main() -> None:
    """Make the images, index them and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("home", type=Path)
    parser.add_argument("--fonts", type=Path, default="/usr/share/fonts", help="Debian's fonts of other scripts")
    parser.add_argument("--index", type=Path, help="figures of benchmarks.search.words")
    parser.add_argument("-o", "--out", type=Path, default=RESULTS / "words.json")
    arguments = parser.parse_args()
    home, data = arguments.home.absolute(), Path(os.environ["PE_TEST_DATA"])
    drawn, sources = draw_images(home, data), copy_photographs(home, data)
    index = pe.open_index(home, "builtin", words=True)
    index.update()
    alone = pe.open_index(home / "c")  # photographs without signs: they are also among those with signs
    paths = {name: path for path, name in sources.items()}
    of_set = {name: {path: query for path, query in drawn.items() if path.startswith(name)} for name in "ab"}
    figures = {
        "images": {"all": len(index), "photographs as they are": len(alone)},
        "recall": {
            **{name: recall(index, home, [(query, {path}) for path, query in of_set[name].items()]) for name in "ab"},
            **{
                name: recall(alone, home, [one for one in labelled(paths) if (min(one[1]) <= LAST_OF_COCO) == of_coco])
                for name, of_coco in (("c, 320 px", True), ("c, 128 px", False))
            },
            "captions": recall(alone, home, captions(data, paths)),
        },
        "captions_with_other_hits": changed(alone, captions(data, paths)),
        "absent": wrong_hits(index),
        "reading": {name: reading(home, queries) for name, queries in of_set.items()},
        "scripts": scripts(arguments.fonts),
        "sizes": sizes(home, drawn),
        "index": json.loads(arguments.index.read_text(encoding="utf-8")) if arguments.index else None,
    }
    arguments.out.write_text(json.dumps(figures, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
