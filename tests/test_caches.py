"""Every cache tells two sources of equal names apart: files in two directories, datasets with equal ids, new content.

Those of spatial alignment, of the search page, of remote shards and of the engine's keys are tested with their modules.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch import nn

from perception_encoder.conversation.assistant import digest_of
from perception_encoder.conversation.captions import Caption, caption_file
from perception_encoder.data.conversations import ParquetRecords
from perception_encoder.data.shard_index import load_table
from perception_encoder.datasets.captioned import CaptionedMedia
from perception_encoder.datasets.labelled import LabelledImages
from perception_encoder.errors import OutputError
from perception_encoder.evaluation.embeddings import Embeddings
from perception_encoder.evaluation.feature_cache import FeatureCache, encode_layers
from perception_encoder.evaluation.inputs import inputs_of
from perception_encoder.evaluation.language.evaluators import QuestionEvaluator
from perception_encoder.evaluation.language.tasks import TASKS
from perception_encoder.evaluation.retrieval import RetrievalEvaluator
from perception_encoder.files import cached_by_file
from perception_encoder.formats.listing import list_items
from perception_encoder.formats.media_directory import Clip
from perception_encoder.formats.tables import read_image_table
from perception_encoder.inference.output import EmbeddingWriter
from perception_encoder.inference.pipeline import Embedding
from perception_encoder.layer_analysis.sweep import run_sweep
from perception_encoder.layer_analysis.tasks import TaskOptions, make_tasks
from perception_encoder.models.checkpoints import files
from perception_encoder.models.checkpoints.files import CachedHash
from perception_encoder.models.checkpoints.weights import state_hash
from perception_encoder.pretraining.task import Teacher
from perception_encoder.video_dataset.features import compute_features
from tests.clips import clip
from tests.data.tars import write_pairs
from tests.evaluation.colours import colour_encoder, image_bytes
from tests.evaluation.language.answerers import RuleAnswerer, colour_of, questions
from tests.layer_analysis.toys import toy_layers
from tests.video_dataset.clips import small_dataset
from tests.video_dataset.models import NumberEncoder


def named(*colours: str, keys: tuple[str, ...] = ("a", "b")) -> LabelledImages:
    """A dataset whose name and keys are those of others."""
    return LabelledImages("data", keys, tuple(map(image_bytes, colours)), colours)


def test_a_function_of_a_file_is_computed_anew_for_another_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Path] = []

    @cached_by_file(4)
    def read(path: Path, upper: bool = False) -> str:
        calls.append(path)
        return path.read_text().upper() if upper else path.read_text()

    for directory in ("one", "two"):
        (tmp_path / directory).mkdir()
        (tmp_path / directory / "a").write_text(directory)
    for _ in range(2):
        for directory in ("one", "two"):
            monkeypatch.chdir(tmp_path / directory)
            assert read(Path("a")) == directory and read(Path("a"), upper=True) == directory.upper()
    assert len(calls) == 4
    (tmp_path / "new").write_text("new")
    (tmp_path / "new").replace("a")
    assert read(Path("a")) == "new"
    read.cache_clear()
    assert read(Path("a")) == "new" and len(calls) == 6
    (tmp_path / "two" / "a").unlink()
    with pytest.raises(FileNotFoundError):
        read(Path("a"))


def track(items, *_):
    return items


def test_embeddings_of_datasets_of_equal_names_and_of_items_of_equal_names() -> None:
    """Keys are equal in two datasets, and in one (two tars may each have a sample of one key)."""
    source = Embeddings(colour_encoder())
    for colours, keys in ((("red", "green"), ("a", "b")), (("blue", "white"), ("a", "b")), (("red", "blue"), "aa")):
        features = source.images(named(*colours, keys=tuple(keys)), track, 8)
        np.testing.assert_allclose(features.vectors[0] @ colour_encoder().encode_texts(colours)[0], 1, atol=1e-5)
        assert features.labels == colours
    twice = LabelledImages("data", ("a", "a"), tuple(map(image_bytes, ("red", "blue"))), ("crimson", "sky"))
    assert source.images(twice, track, 8).labels == ("crimson", "sky")


def test_retrieval_tells_items_of_equal_names_apart() -> None:
    media = tuple(map(image_bytes, ("red", "green", "blue")))
    pairs = CaptionedMedia("data", ("a", "a", "b"), media, (("red",), ("green",), ("blue",)))
    assert {score.value for score in RetrievalEvaluator(pairs).run(Embeddings(colour_encoder()))} == {1.0}


def test_stored_features_depend_on_the_range_of_a_clip_on_frames_and_on_the_border(tmp_path: Path) -> None:
    path = tmp_path / "v.mp4"
    path.write_bytes(clip(20, rate=10))

    def digest(start: float | None, end: float | None, frames: int = 4, trim: int = 0) -> str:
        images = LabelledImages("clips", ("a",), (Clip(path, start, end),), ("x",), trim=trim)
        return inputs_of(images, frames).digest

    different = [digest(0, 1), digest(1, 2), digest(0, 2), digest(None, None), digest(0, 1, 8), digest(0, 1, 4, 2)]
    assert len(set(different)) == 6 and digest(0, 1) == different[0]
    cache = FeatureCache(directory=tmp_path / "features")
    halves = [LabelledImages("clips", ("a",), (Clip(path, start, start + 1.0),), ("x",)) for start in (0.0, 1.0)]
    tokens = [encode_layers(toy_layers(), inputs_of(half, 2), [2], cache)[2].tokens for half in halves]
    assert (tokens[0] != tokens[1]).any()


def class_directories(directory: Path, colours: Sequence[str]) -> Path:
    """Images of equal names and labels, whatever their colours."""
    for split in ("train", "val", "test"):
        for label, colour in zip("xyz", colours, strict=False):
            (directory / split / label).mkdir(parents=True, exist_ok=True)
            for number in range(4):
                (directory / split / label / f"{number}.png").write_bytes(image_bytes(colour, number))
    return directory


def test_layers_of_datasets_of_equal_names_have_their_own_scores(tmp_path: Path) -> None:
    """The second has one colour for all classes, under the names of the first's files, and a class more."""
    cache, data, found = FeatureCache(directory=tmp_path / "features"), tmp_path / "data", []
    for colours in (("red", "blue"), ("green", "green", "green")):
        class_directories(data, colours)
        tasks = make_tasks(["retrieval"], {}, data, TaskOptions(items=8))
        assert len(set(tasks["retrieval"].labelled.labels)) == len(colours)
        found.append(run_sweep(toy_layers(), tasks, cache, [2]).curves[0].scores[2].value)
    assert found[0] > 0.95 and found[1] < 0.9


class Sizes:
    """A teacher that tells the shape of an image, and the length of a text."""

    name = "sizes"

    def encode_images(self, images: Sequence[Image.Image], normalize: bool = True) -> np.ndarray:
        return np.array([[image.width, image.height] for image in images], np.float32)

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        return np.array([[0, len(text)] for text in texts], np.float32)


def test_a_teacher_remembers_an_image_by_its_content_and_shape() -> None:
    teacher = Teacher(Sizes(), 4, "sizes", remember=9)
    for height, width in ((2, 8), (8, 2), (4, 4)):
        images, texts = teacher.embed(torch.zeros(1, 3, height, width, dtype=torch.uint8), ["\0" * 48])
        assert images.tolist() == [[width, height]] and texts.tolist() == [[0, 48]]


def test_tables_of_shards_and_parquet_files_are_those_of_the_file_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    for directory, first in (("one", 1), ("two", 4), ("three", 7)):
        write_pairs(tmp_path / directory / "a.tar", range(first, first + 2))
        rows = [{"image": f"{directory} {number}".encode(), "id": f"{directory} {number}"} for number in (0, 1)]
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / directory / "a.parquet")

    def check(name: str, first: int) -> None:
        table = load_table("a.tar", ("txt",))
        assert table.keys == [f"n{first}", f"n{first + 1}"]
        assert table.read(0, ("txt",))["txt"] == f"number {first}".encode()
        (_, _, image), _ = read_image_table(Path("a.parquet"), ["image"])
        assert image.read() == f"{name} 0".encode()
        assert ParquetRecords(Path("a.parquet")).read(1).fields["id"] == f"{name} 1"

    for directory, first in (("one", 1), ("two", 4), ("one", 1)):
        monkeypatch.chdir(tmp_path / directory)
        check(directory, first)
    for name in ("a.tar", "a.parquet"):  # another file takes the place of one that was read
        (tmp_path / "three" / name).replace(tmp_path / "one" / name)
    check("three", 7)


def test_hashes_of_weights_of_equal_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    monkeypatch.setattr(files, "SETTLED_NS", 0)
    for directory, value in (("one", "1" * 16), ("two", "2" * 16), ("one", "1" * 16)):
        (tmp_path / directory).mkdir(exist_ok=True)
        path = tmp_path / directory / "model.safetensors"
        path.write_bytes(b"x" * 9)
        os.utime(path, (1e9, 1e9))
        monkeypatch.chdir(tmp_path / directory)
        assert CachedHash(Path("model.safetensors")).get(lambda value=value: value) == value


class Answerer(RuleAnswerer):
    """Answers by the colour of the image, with weights that two models of one name may differ in."""

    def __init__(self, weight: float = 0.0) -> None:
        super().__init__(colour_of)
        self.model = nn.Linear(1, 1)
        nn.init.constant_(self.model.weight, weight)
        nn.init.zeros_(self.model.bias)

    def describe(self) -> dict[str, Any]:
        return {"name": self.name, "weights": state_hash(self.model.state_dict())}


def test_answers_are_told_by_the_weights_and_by_the_images(tmp_path: Path) -> None:
    path, asked = tmp_path / "answers.jsonl", questions(4)
    list(QuestionEvaluator(TASKS["vqav2"], asked, path).run(Answerer()))
    same = Answerer()
    list(QuestionEvaluator(TASKS["vqav2"], asked, path).run(same))
    assert same.prompts == []
    with pytest.raises(OutputError, match=r"answers\.jsonl was made with digest"):
        list(QuestionEvaluator(TASKS["vqav2"], asked, path).run(Answerer(1.0)))
    others = [replace(question, media=(image_bytes("red"),)) for question in asked]  # another dataset with equal ids
    model = Answerer()
    list(QuestionEvaluator(TASKS["vqav2"], others, path).run(model))
    assert len(model.prompts) == 4
    model = Answerer()
    list(QuestionEvaluator(TASKS["vqav2"], others, path, frames=3).run(model))
    assert len(model.prompts) == 4, "of a video, other frames are another question"


def test_captions_are_told_by_the_weights_and_by_the_files(tmp_path: Path) -> None:
    out, models = tmp_path / "captions.jsonl", [digest_of(Answerer(weight)) for weight in (0.0, 0.0, 1.0)]
    assert models[0] == models[1] != models[2]
    for directory in ("one", "two"):
        (tmp_path / directory).mkdir()
        (tmp_path / directory / "a.png").write_bytes(image_bytes("red"))
        (tmp_path / directory / "list.csv").write_text("id,path\n1,a.png\n")
    first, second = (next(list_items([tmp_path / directory / "list.csv"])) for directory in ("one", "two"))
    assert first.id == second.id == "1"
    row = Caption(
        id=first.id,
        path=first.path,
        start=None,
        end=None,
        caption="c",
        finished=True,
        model="m",
        prompt="p",
        digest=models[0],
    )
    with caption_file(out, "m", models[0], "p") as file:
        file.append(row)
    with caption_file(out, "m", models[1], "p") as file:
        assert [caption.key for caption in file.rows] == [(first.id, first.path, first.start, first.end)]
        assert first.path != second.path
    with (
        pytest.raises(OutputError, match=r"captions\.jsonl was made with digest"),
        caption_file(out, "m", models[2], "p"),
    ):
        pass


@pytest.mark.parametrize("change", ["another file of the name", "another directory"])
def test_embeddings_are_not_resumed_with_other_files_of_the_same_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    for directory, colour in (("one", "red"), ("two", "blue")):
        (tmp_path / directory).mkdir()
        (tmp_path / directory / "a.png").write_bytes(image_bytes(colour))
    monkeypatch.chdir(tmp_path / "one")
    settings = {"model": "m", "weight_hash": "h", "layer": 1, "pool": "attn", "normalized": True, "dimension": 2}
    with EmbeddingWriter(tmp_path / "out.parquet", settings) as writer:
        (item,) = writer.resume(list_items(["a.png"]))
        writer.add([Embedding(item, np.ones(2, np.float32))])
        writer.flush()
    with EmbeddingWriter(tmp_path / "out.parquet", settings) as writer:
        assert list(writer.resume(list_items(["a.png"]))) == []
    if change == "another directory":
        monkeypatch.chdir(tmp_path / "two")
    else:
        shutil.copyfile(tmp_path / "two" / "a.png", "a.png")
    with (
        EmbeddingWriter(tmp_path / "out.parquet", settings) as writer,
        pytest.raises(OutputError, match="began with other inputs"),
    ):
        list(writer.resume(list_items(["a.png"])))


def test_features_of_videos_are_told_by_the_tar_and_by_the_weights(tmp_path: Path) -> None:
    """Two datasets of tars of one name, size and time; two encoders of one name."""
    datasets = [small_dataset(tmp_path / name, 1) for name in ("one", "two")]
    for directory in datasets:
        os.utime(directory / "train" / "000000.tar", (1e9, 1e9))
    encoder = NumberEncoder()
    for directory, images in ((datasets[0], 3), (datasets[0], 3), (datasets[1], 6)):
        compute_features(directory, tmp_path / "out", encoder)
        assert encoder.images == images
    encoder.weight_hash = "another"
    compute_features(datasets[1], tmp_path / "out", encoder)
    assert encoder.images == 9
