"""Tasks of mteb run on an encoder, by the library itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import mteb
import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict
from mteb.mocks.mock_tasks.retrieval import MockRetrievalTask
from mteb.mocks.mock_tasks.sts import MockSTSTask, MockVisualSTSTask
from mteb.mocks.mock_tasks.zeroshot_classification import MockZeroShotClassificationTask
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader

from perception_encoder.errors import ConfigError, MediaDecodeError
from perception_encoder.inference.encoder import Encoder
from perception_encoder.inference.external_encoder import OutputEncoder
from perception_encoder.models.checkpoints.weights import create_model
from perception_encoder.models.external import Adapter

TEXTS = ["a red mug", "a dog on a lawn", "a red cup", "two dogs", "a mountain in the snow", "dog.jpg", "a", "b c"]


def score(encoder: Encoder, task: mteb.AbsTask, cache: mteb.ResultCache | None = None, **options: object) -> float:
    """The main score of a task."""
    (result,) = mteb.evaluate(encoder, task, cache=cache, show_progress_bar=False, **options).task_results
    return result.get_score()


class Similarities(MockSTSTask):
    """Pairs of texts with an encoder's own similarities, which its score must equal."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        left, right = TEXTS[:-1], TEXTS[1:]
        scores = encoder.similarity_pairwise(encoder.encode_texts(left), encoder.encode_texts(right))
        self.dataset = DatasetDict(
            test=Dataset.from_dict({"sentence1": left, "sentence2": right, "score": scores.tolist()})
        )
        self.data_loaded = True


class ImageSimilarities(MockVisualSTSTask):
    """The same for pairs of images."""

    def __init__(self, encoder: Encoder, draw: Callable[[int], Image.Image]) -> None:
        super().__init__()
        left, right = [draw(number) for number in range(6)], [draw(number) for number in range(1, 7)]
        scores = encoder.similarity_pairwise(encoder.encode_images(left), encoder.encode_images(right))
        self.dataset = DatasetDict(
            test=Dataset.from_dict({"sentence1": left, "sentence2": right, "score": scores.tolist()})
        )
        self.data_loaded = True


class OwnLabels(MockZeroShotClassificationTask):
    """Images whose labels are the texts most similar to them by an encoder."""

    def __init__(self, encoder: Encoder, draw: Callable[[int], Image.Image]) -> None:
        super().__init__()
        images = [draw(number) for number in range(6)]
        best = encoder.similarity(encoder.encode_images(images), encoder.encode_texts(TEXTS)).argmax(dim=1)
        self.dataset = DatasetDict(test=Dataset.from_dict({"image": images, "label": best.tolist()}))
        self.data_loaded = True

    def get_candidate_labels(self) -> list[str]:
        return TEXTS


def test_tasks_of_texts_and_images_give_the_encoders_own_similarities(
    encoder: Encoder, draw: Callable[[int], Image.Image]
) -> None:
    assert score(encoder, Similarities(encoder), encode_kwargs={"batch_size": 3}) == pytest.approx(1)
    assert score(encoder, ImageSimilarities(encoder, draw), encode_kwargs={"batch_size": 4}) == pytest.approx(1)
    assert score(encoder, OwnLabels(encoder, draw)) == 1


def test_a_retrieval_task_runs(encoder: Encoder) -> None:
    assert 0 < score(encoder, MockRetrievalTask()) <= 1


def test_cached_results_are_of_the_same_weights(encoder: Encoder, tmp_path: Path) -> None:
    """Two models of one name: mteb gave the second one the first one's results, had it no revision."""
    cache = mteb.ResultCache(tmp_path)
    other_model = create_model("PE-Core-N16-128")
    with torch.no_grad():
        nn.init.normal_(other_model.text.text_projection)
    other, task = Encoder(other_model, "cpu", torch.float32), Similarities(encoder)
    assert other.name == encoder.name
    assert score(encoder, task, cache) == pytest.approx(1)
    assert score(other, task, cache) < 0.99
    assert score(encoder, task, cache) == pytest.approx(1)


def test_a_model_says_what_it_is(encoder: Encoder) -> None:
    meta = encoder.mteb_model_meta
    assert meta.name == "perception-encoder/PE-Core-N16-128"
    assert meta.embed_dim == encoder.dimension
    assert meta.n_parameters == sum(parameter.numel() for parameter in encoder.model.parameters())
    assert set(meta.modalities) == {"image", "text"}
    half = Encoder(create_model("PE-Core-N16-128"), "cpu", torch.bfloat16)
    assert half.mteb_model_meta.revision != meta.revision
    assert isinstance(encoder, mteb.EncoderProtocol)


def test_a_model_without_a_text_tower_is_refused_for_texts(encoder: Encoder) -> None:
    tower = Encoder(encoder.visual, "cpu", torch.float32)
    assert tower.mteb_model_meta.modalities == ["image"]
    with pytest.raises(ValueError, match="modalities"):
        score(tower, Similarities(encoder))


def test_other_libraries_models_say_whether_they_read_texts() -> None:
    class Images(Adapter):
        library, distribution = "timm", "timm"

        def _create(self) -> nn.Module:
            return nn.Linear(2, 2)

        def _make_transform(self, mode: str) -> Callable[[Image.Image], torch.Tensor]:
            return lambda image: torch.from_numpy(np.array(image)).permute(2, 0, 1).float()

        def embed_pixels(self, pixels: torch.Tensor) -> torch.Tensor:
            return pixels.mean(dim=(2, 3))

    class Both(Images):
        reads_texts = True

    for kind, modalities in ((Images, ["image"]), (Both, ["image", "text"])):
        assert OutputEncoder(kind("timm:tiny", "tiny")).mteb_model_meta.modalities == modalities


def call(encoder: Encoder, rows: list[dict[str, object]], **options: object) -> np.ndarray:
    """`encode` as mteb calls it, with rows in batches of two."""
    loader = DataLoader(rows, 2, collate_fn=lambda batch: {key: [row[key] for row in batch] for key in batch[0]})
    return encoder.encode(loader, task_metadata=object(), hf_split="test", hf_subset="default", **options)


def test_batches_keep_their_order_and_every_argument(encoder: Encoder, draw: Callable[[int], Image.Image]) -> None:
    rows = [{"text": text, "title": "no", "id": 1} for text in TEXTS]
    expected = encoder.encode_texts(TEXTS)
    np.testing.assert_allclose(call(encoder, rows), expected, rtol=0, atol=2e-6)
    np.testing.assert_allclose(
        call(encoder, rows, normalize_embeddings=False, truncate_dim=8),
        encoder.encode_texts(TEXTS, normalize=False)[:, :8],
        rtol=1e-5,
        atol=1e-5,
    )
    images = [draw(number) for number in range(3)]
    layer = call(encoder, [{"image": image} for image in images], layer=0, pool="mean")
    np.testing.assert_allclose(layer, encoder.encode(images, layer=0, pool="mean"), rtol=0, atol=2e-6)


def test_what_mteb_cannot_mean_is_refused(encoder: Encoder, draw: Callable[[int], Image.Image]) -> None:
    with pytest.raises(ConfigError, match=r"\['image', 'text'\]; a dict must have one of image, video, text"):
        call(encoder, [{"image": draw(0), "text": "a dog"}])
    with pytest.raises(ConfigError, match="audio"):
        call(encoder, [{"audio": b""}])
    with pytest.raises(ConfigError, match="float32"):
        call(encoder, [{"text": "a"}], precision="int8")
    with pytest.raises(MediaDecodeError):
        call(encoder, [{"image": b"no image"}])
    with pytest.raises(ConfigError, match="skipped"):
        call(encoder, [{"text": "a"}], skipped={})
