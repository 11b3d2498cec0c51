"""Tiny datasets of questions in the layouts that they are published in."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests.data.tars import write_file
from tests.evaluation.layers import png

IMAGE = png(np.full((40, 60, 3), (200, 30, 30), np.uint8))
PEOPLE = [{"answer": "cup", "answer_confidence": "yes", "answer_id": n} for n in range(1, 8)]
PEOPLE += [{"answer": "mug", "answer_confidence": "no", "answer_id": n} for n in range(8, 11)]


def write_json(path: Path, value: Any) -> Path:
    return write_file(path, json.dumps(value).encode())


def write_lines(path: Path, values: list[dict[str, Any]]) -> Path:
    return write_file(path, "".join(json.dumps(value) + "\n" for value in values).encode())


def write_image(path: Path, content: bytes = IMAGE) -> Path:
    return write_file(path, content)


def write_table(path: Path, rows: list[dict[str, Any]], group_rows: int = 2) -> Path:
    """A Parquet file as the hub has it: images are structs of bytes and a path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [{"image": {"bytes": IMAGE, "path": f"{n}.png"}, **row} for n, row in enumerate(rows)]
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=group_rows)
    return path


def vqav2(root: Path, version: str = "v2_") -> None:
    questions = [{"image_id": 42 + n, "question": f"What is it ({n})?", "question_id": 42000 + n} for n in (0, 1)]
    questions.append({"image_id": 42, "question": "Again?", "question_id": 42002})
    annotations = [
        {"question_id": item["question_id"], "image_id": item["image_id"], "answers": PEOPLE, "answer_type": "other"}
        for item in questions
    ]
    about = {"data_subtype": "val2014", "questions": questions}
    write_json(root / f"{version}OpenEnded_mscoco_val2014_questions.json", about)
    write_json(root / f"{version}mscoco_val2014_annotations.json", {"annotations": annotations})
    for n in (42, 43):
        write_image(root / "val2014" / f"COCO_val2014_{n:012}.jpg")


def textvqa(root: Path) -> None:
    answers = [person["answer"] for person in PEOPLE]
    data = [
        {"question": "what brand?", "image_id": "003a8ae2ef43b901", "question_id": 34602 + n, "answers": answers}
        for n in range(2)
    ]
    write_json(root / "TextVQA_0.5.1_val.json", {"dataset_type": "val", "data": data})
    write_image(root / "train_images" / "003a8ae2ef43b901.jpg")


def docvqa(root: Path) -> None:
    data = [
        {
            "questionId": 49153 + n,
            "question": "What is the total?",
            "docId": 1,
            "image": "documents/xnbl0037_1.png",
            "answers": ["12.50", "$12.50"],
        }
        for n in range(2)
    ]
    write_json(root / "spdocvqa_qas" / "val_v1.0_withQT.json", {"dataset_name": "SP-DocVQA", "data": data})
    write_image(root / "spdocvqa_images" / "xnbl0037_1.png")


def infovqa(root: Path) -> None:
    data = [{"questionId": 1, "question": "How many?", "image_local_name": "3.jpeg", "answers": ["7"]}]
    write_json(root / "infographicsVQA_val_v1.0_withQT.json", {"data": data})
    write_image(root / "images" / "3.jpeg")


def chartqa(root: Path) -> None:
    for part, label in (("human", "14"), ("augmented", "Yes")):
        rows = [{"imgname": "41.png", "query": f"How many ({n})?", "label": label} for n in range(2)]
        write_json(root / "ChartQA Dataset" / "test" / f"test_{part}.json", rows)
    write_image(root / "ChartQA Dataset" / "test" / "png" / "41.png")


def pope(root: Path) -> None:
    for part in ("random", "popular", "adversarial"):
        rows = [
            {
                "question_id": n,
                "image": "COCO_val2014_000000000042.jpg",
                "text": f"Is there a cup ({n})?",
                "label": word,
            }
            for n, word in ((1, "yes"), (2, "no"))
        ]
        write_lines(root / "coco" / f"coco_pope_{part}.json", rows)
    write_image(root / "val2014" / "COCO_val2014_000000000042.jpg")


def coco(root: Path) -> None:
    images = [{"id": n, "file_name": f"COCO_val2014_{n:012}.jpg"} for n in (42, 43)]
    annotations = [{"id": n, "image_id": 42 + n % 2, "caption": f"A red cup {n}."} for n in range(4)]
    write_json(root / "annotations" / "captions_val2014.json", {"images": images, "annotations": annotations})
    for image in images:
        write_image(root / "val2014" / image["file_name"])


def ai2d(root: Path) -> None:
    for n in range(3):
        question = {
            "questionId": f"{n}.png-0",
            "answerTexts": ["leaf", "root", "stem"],
            "correctAnswer": 1,
            "abcLabel": n == 2,
        }
        write_json(
            root / "questions" / f"{n}.png.json", {"imageName": f"{n}.png", "questions": {f"Which ({n})?": question}}
        )
        write_image(root / "images" / f"{n}.png")
    write_image(root / "abc_images" / "2.png")
    (root / "ai2d_test_ids.csv").write_text("0\n2\n")


def mvbench(root: Path) -> None:
    row = {"question": "What happens?", "candidates": ["A cup falls.", "A cup rises."], "answer": "A cup rises."}
    write_json(root / "json" / "action_antonym.json", [{**row, "video": "7.mp4"}])
    write_json(root / "json" / "action_sequence.json", [{**row, "video": "7.mp4", "start": 1.5, "end": 3}])
    write_json(root / "json" / "episodic_reasoning.json", [{**row, "video": "s01_clip", "start": 1, "end": 3}])
    for directory in ("ssv2_video", "star/Charades_v1_480"):
        write_image(root / "video" / directory / "7.mp4", b"a video of " + directory.encode())
    for n in range(12):
        write_image(root / "video" / "tvqa" / "frames_fps3_hq" / "s01_clip" / f"{n + 1:05}.jpg")


def refcoco(root: Path, dump: Callable[[Any], bytes] = pickle.dumps) -> None:
    references = [
        {
            "ref_id": n,
            "ann_id": 100 + n,
            "image_id": 581857,
            "category_id": 44,
            "split": split,
            "sent_ids": [n],
            "file_name": "COCO_train2014_000000581857_16.jpg",
            "sentences": [
                {"sent_id": 10 * n + k, "raw": "The Cup", "sent": f"the cup {k}", "tokens": ["the", "cup"]}
                for k in range(2)
            ],
        }
        for n, split in ((0, "val"), (1, "testA"))
    ]
    instances = {
        "images": [{"id": 581857, "file_name": "COCO_train2014_000000581857.jpg", "width": 60, "height": 40}],
        "annotations": [{"id": 100 + n, "image_id": 581857, "bbox": [6, 4, 30, 20.5]} for n in (0, 1)],
    }
    (root / "refcoco").mkdir(parents=True, exist_ok=True)
    (root / "refcoco" / "refs(unc).p").write_bytes(dump(references))
    write_json(root / "refcoco" / "instances.json", instances)
    write_image(root / "train2014" / "COCO_train2014_000000581857.jpg")


def star(root: Path) -> None:
    """STAR_val.json as its authors publish it, and Charades' videos as their archive has them."""
    choices = [
        {"choice_id": n, "choice": f"The {thing}.", "choice_program": []} for n, thing in enumerate(("cup", "bed"))
    ]
    rows = [
        {
            "question_id": f"{kind}_T1_{n}",
            "question": "Which object was taken?",
            "video_id": "6H78U",
            "start": 11.1,
            "end": 19.6,
            "answer": "The bed.",
            "choices": choices,
        }
        for n, kind in enumerate(("Interaction", "Sequence"))
    ]
    write_json(root / "STAR_val.json", rows)
    write_image(root / "Charades_v1_480" / "6H78U.mp4", b"a video")


def tgifqa(root: Path) -> None:
    """The tab-separated files of TGIF-QA that are called .csv."""
    root.mkdir(parents=True, exist_ok=True)
    name, choices = "tumblr_nk172bbdPI1u1lr18o1_250", "\t".join(("talk", "fall over", "flap wings", "jump", "wave"))
    for kind, question in (("action", "What does the butterfly do 4 times ?"), ("transition", "What comes after ?")):
        lines = ["gif_name\tquestion\ta1\ta2\ta3\ta4\ta5\tanswer\tvid_id\tkey"]
        lines.append(f"{name}\t{question}\t{choices}\t2\tACTION7\t13")
        (root / f"Test_{kind}_question.csv").write_text("\n".join(lines) + "\n")
    lines = ["gif_name\tquestion\tanswer\ttype\tvid_id\tkey", f"{name}\twhat flies ?\tbutterfly\t0\tFRAMEQA5\t14"]
    (root / "Test_frameqa_question.csv").write_text("\n".join(lines) + "\n")
    write_image(root / "gifs" / f"{name}.gif", b"a GIF")


LAYOUTS: dict[str, Callable[[Path], None]] = {
    "vqav2": vqav2,
    "okvqa": lambda root: vqav2(root, ""),
    "textvqa": textvqa,
    "docvqa": docvqa,
    "infovqa": infovqa,
    "chartqa": chartqa,
    "pope": pope,
    "coco": coco,
    "ai2d": ai2d,
    "mvbench": mvbench,
    "refcoco": refcoco,
    "star": star,
}

# fmt: off
TABLES: dict[str, tuple[str, list[dict[str, Any]]]] = {
    "vqav2": ("data/validation-00000-of-00001.parquet",
              [{"question_id": n, "image_id": 42, "question": "What?", "answers": PEOPLE} for n in range(3)]),
    "textvqa": ("data/validation-00000-of-00001.parquet",
                [{"question_id": 1, "image_id": "a", "question": "what?", "answers": ["cup"] * 10}]),
    "docvqa": ("DocVQA/validation-00000-of-00001.parquet",
               [{"questionId": "1", "question": "Total?", "docId": 5, "answers": ["7"]}]),
    "infovqa": ("InfographicVQA/validation-00000-of-00001.parquet",
                [{"questionId": "1", "question": "Total?", "answers": ["7"]}]),
    "chartqa": ("data/test-00000-of-00001.parquet",
                [{"type": "human_test", "question": "How many?", "answer": "3"},
                 {"type": "augmented_test", "question": "How many?", "answer": "4"}]),
    "pope": ("data/test-00000-of-00001.parquet",
             [{"id": str(n), "question_id": str(n), "question": "Is it?", "answer": "yes", "image_source": "c",
               "category": part} for n, part in enumerate(("random", "popular", "adversarial"))]),
    "coco": ("data/val-00000-of-00001.parquet",
             [{"question_id": "a.jpg", "question": "Describe.", "answer": ["A cup.", "A red cup."], "id": 1}]),
    "flickr30k": ("data/test-00000-of-00009.parquet",
                  [{"caption": ["A cup.", "A red cup."], "sentids": ["0", "1"], "img_id": "0", "filename": "1.jpg"}]),
    "nocaps": ("data/validation-00000-of-00003.parquet",
               [{"image_id": n, "image_file_name": "a.jpg", "annotations_captions": ["A cup."] * 10} for n in (0, 1)]),
    "ai2d": ("data/test-00000-of-00001.parquet",
             [{"question": "Which?", "options": ["leaf", "root"], "answer": "1"}]),
    "refcoco": ("data/val-00000-of-00001.parquet",
                [{"question_id": "1", "question": "Describe it.", "answer": ["the cup", "red"],
                  "bbox": [6.0, 4.0, 30.0, 20.0], "file_name": "a.jpg"}]),
}
# fmt: on
"""The hub's tables: their path, and their rows without images."""
