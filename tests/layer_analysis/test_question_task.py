"""Layers evaluated on questions, by a head that is fitted on their tokens."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from perception_encoder.datasets.questions.question import Question
from perception_encoder.dense_prediction.head_fitting import FitConfig
from perception_encoder.errors import DataError
from perception_encoder.evaluation.feature_cache import FeatureCache
from perception_encoder.evaluation.language.evaluators import AskedImages
from perception_encoder.inference.layer_features import LayerFeatures
from perception_encoder.language_models.answer_head import AnswerHead, AnswerHeadConfig, fit_answers
from perception_encoder.language_models.decoder import Decoder, make_fresh_decoder
from perception_encoder.layer_analysis.question_task import QuestionTask
from perception_encoder.layer_analysis.sweep import ColourTowers, run_sweep
from perception_encoder.layer_analysis.tasks import TASKS, TaskOptions, make_tasks, thin
from synthetic.questions.tasks import find_task
from tests.datasets.questions.layouts import IMAGE, TABLES, write_table
from tests.evaluation.layers import png
from tests.layer_analysis.toys import toy_layers

NAMES = ("red", "green", "blue", "white")
ASKED = [[("What colour?", name), ("Is it red?", "yes" if name == "red" else "no")] for name in NAMES]
CONFIG = AnswerHeadConfig(fit=FitConfig(epochs=8, batch=8, lr=2e-3))


def patches(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Tokens (n, 2, 2, 8) that say a class in one of the four patches, and the classes."""
    generator = np.random.default_rng(seed)
    classes, places = generator.integers(4, size=(2, count))
    values = generator.normal(size=(count, 4, 8)).astype(np.float32) * 0.1 + 7
    values[np.arange(count), places, classes] += 3
    return values.reshape(count, 2, 2, 8), classes


def fresh() -> Decoder:
    texts = [text for turns in ASKED for turn in turns for text in turn]
    return make_fresh_decoder(texts, torch.Generator().manual_seed(0))


def fitted(config: AnswerHeadConfig, values: np.ndarray, classes: np.ndarray) -> AnswerHead:
    return fit_answers(values, [ASKED[class_] for class_ in classes], config, fresh())


def test_it_answers_by_the_tokens_and_by_chance_without() -> None:
    values, classes = patches(160, 0)
    unseen, right = patches(40, 1)
    head = fitted(CONFIG, values, classes)
    colours = [(row, "What colour?") for row in range(40)]
    answers = head.answer(unseen, colours, 4)
    assert np.mean([NAMES[item] == answer for item, answer in zip(right, answers, strict=True)]) > 0.9
    assert head.answer(unseen, [(3, "Is it red?"), *colours[:2]], 4)[1:] == answers[:2], "each is about its own image"
    blind = fitted(CONFIG, np.zeros_like(values), classes).answer(unseen * 0, colours, 4)
    assert len(set(blind)) == 1


def test_a_frozen_language_model_stays_what_it_is() -> None:
    values, classes = patches(16, 0)
    config = replace(CONFIG, frozen=True, fit=FitConfig(epochs=1, batch=8))
    head, other = fitted(config, values, classes), fitted(replace(config, frozen=False), values, classes)
    for name, value in fresh().model.state_dict().items():
        assert torch.equal(value, head.decoder.model.state_dict()[name])
    assert not torch.equal(other.decoder.model.state_dict()[name], value)


COLOURS = {"red": (230, 20, 20), "green": (20, 220, 30), "blue": (20, 40, 230)}
HEAD = AnswerHeadConfig(fit=FitConfig(epochs=6, batch=8, lr=2e-3))


def questions(count: int, seed: int) -> list[Question]:
    """Two questions about each image: its colour, and its box."""
    generator, asked = np.random.default_rng(seed), []
    for number in range(count):
        name = list(COLOURS)[generator.integers(3)]
        shade = np.array(COLOURS[name]) + generator.integers(-9, 9, 3)
        media = (png(np.tile(shade.clip(0, 255).astype(np.uint8), (16, 16, 1))),)
        key = f"{seed}-{number}"
        asked.append(
            Question(id=f"{key}/0", question="What colour?", media=media, answers=(name,), group="colour", block=key)
        )
        box = (0.0, 0.0, 16.0, 8.0)
        asked.append(
            Question(id=f"{key}/1", question="Give the box.", media=media, box=box, group="grounding", block=key)
        )
    return asked


def task(items: int = 60, broken: int | None = None) -> QuestionTask:
    """`broken`: the image of each part that cannot be decoded."""
    parts = [
        AskedImages.of(
            f"scenes, {seed}",
            [replace(asked, media=(b"broken",)) if asked.block == f"{seed}-{broken}" else asked for asked in part],
        )
        for seed, part in enumerate((questions(60, 0), questions(20, 1)))
    ]
    return QuestionTask(find_task("scenes"), *thin((parts[0], parts[1]), items), HEAD, head_seeds=2)


def test_colours_answer_questions_about_colours(tmp_path: Path) -> None:
    cache = FeatureCache(directory=tmp_path, dtype="float32")
    sweep = run_sweep(LayerFeatures(ColourTowers(toy_layers())), {"scenes": task()}, cache)
    values = {curve.metric: curve.scores[0] for curve in sweep.curves}
    assert set(values) == {"accuracy", "accuracy, colour", "accuracy, grounding", "mean IoU, grounding"}
    assert values["accuracy, colour"].value > 0.8
    assert values["accuracy, grounding"].value == values["mean IoU, grounding"].value == 1
    assert len(values["accuracy"].by_seed) == 2 and values["accuracy"].pool == "tokens"


def test_items_are_images() -> None:
    small = task(items=3)
    assert [len(images.keys) for images in small.inputs()] == [6, 3]
    assert small.digest != task(items=4).digest
    assert small.inputs()[0].digest == task(items=3).inputs()[0].digest


def test_an_image_with_a_box_that_cannot_be_decoded_is_left_out(tmp_path: Path) -> None:
    sweep = run_sweep(
        LayerFeatures(ColourTowers(toy_layers())), {"scenes": task(8, 0)}, FeatureCache(directory=tmp_path)
    )
    assert {curve.scores[0].n for curve in sweep.curves} == {7, 14} and len(sweep.failures) == 2


def test_only_questions_about_one_image() -> None:
    assert "mvbench" not in TASKS and "docvqa" in TASKS
    with pytest.raises(DataError, match="scenes, test has no question"):
        AskedImages.of("scenes, test", [])


def test_a_dataset_by_its_path(tmp_path: Path) -> None:
    for split, count in (("train", 4), ("validation", 3)):
        rows = [{**TABLES["vqav2"][1][0], "question_id": n, "image_id": n} for n in range(count)]
        write_table(tmp_path / "data" / f"{split}-00000-of-00001.parquet", rows)
    (read,) = make_tasks(["vqav2"], {}, tmp_path, TaskOptions(items=2, image_size=(32, 32))).values()
    assert isinstance(read, QuestionTask)
    train, test = read.inputs()
    assert (len(train.keys), len(test.keys), test.image_size) == (4, 2, (32, 32))
    assert test.open(0)[0].size == Image.open(io.BytesIO(IMAGE)).size
