"""sentence-transformers' arguments and functions, by the library itself where it has them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import mteb
import numpy as np
import pandas as pd
import pytest
import torch
from datasets import Dataset, DatasetDict, Video
from mteb.mocks.mock_tasks.retrieval import MockVideoRetrievalT2V
from mteb.mocks.mock_tasks.sts import MockSTSTask
from mteb.mocks.mock_tasks.zeroshot_classification import MockZeroShotClassificationTask
from PIL import Image
from sentence_transformers import SimilarityFunction, util
from sentence_transformers.sentence_transformer.evaluation import (
    EmbeddingSimilarityEvaluator,
)
from torch import nn
from torch.utils.data import DataLoader

from perception_encoder.errors import ConfigError, MediaDecodeError, MediaNotFoundError
from perception_encoder.inference.encoder import Encoder
from perception_encoder.inference.sentence_transformer import SentenceTransformerView
from perception_encoder.models.checkpoints.weights import create_model


@pytest.fixture(scope="session")
def view(encoder: Encoder) -> SentenceTransformerView:
    return encoder.as_sentence_transformer()


TEXTS = ["a red mug", "a dog on a lawn", "a red cup", "two dogs", "a mountain in the snow"]
CLOSE = {"rtol": 0, "atol": 2e-6}


def test_the_similarity_evaluator_runs_on_a_view(view: SentenceTransformerView) -> None:
    left, right = TEXTS[:4], TEXTS[1:]
    wanted = view.similarity_pairwise(view.encode(left), view.encode(right)).tolist()
    evaluator = EmbeddingSimilarityEvaluator(left, right, wanted)  # scores that the encoder itself gives
    assert evaluator(view)["spearman_cosine"] == pytest.approx(1)
    assert evaluator(view)["pearson_cosine"] == pytest.approx(1)


def test_similarity_is_the_librarys(encoder: Encoder, view: SentenceTransformerView) -> None:
    a, b = encoder.encode(TEXTS[:3], normalize=False), encoder.encode(TEXTS[1:4], normalize=False)
    kind = SimilarityFunction(view.similarity_fn_name)
    for left, right in ((a, b), (torch.from_numpy(a), b), (list(a), [torch.from_numpy(row) for row in b]), (a[0], b)):
        expected = SimilarityFunction.to_similarity_fn(kind)(np.asarray(left), np.asarray(b))
        torch.testing.assert_close(view.similarity(left, right), expected)
    expected = SimilarityFunction.to_similarity_pairwise_fn(kind)(a, b)
    torch.testing.assert_close(view.similarity_pairwise(a, b), expected)


def test_queries_and_documents_are_encoded_alike(encoder: Encoder, view: SentenceTransformerView) -> None:
    expected = encoder.encode(TEXTS)
    np.testing.assert_array_equal(view.encode_query(TEXTS), expected)
    np.testing.assert_array_equal(view.encode_document(TEXTS), expected)
    assert view.get_sentence_embedding_dimension() == view.get_embedding_dimension() == expected.shape[1]


def test_vectors_come_as_array_tensor_or_list(encoder: Encoder, view: SentenceTransformerView) -> None:
    expected = encoder.encode(TEXTS)
    tensor = view.encode(TEXTS, convert_to_tensor=True)
    assert isinstance(tensor, torch.Tensor) and tensor.device == encoder.device
    np.testing.assert_array_equal(tensor, expected)
    rows = view.encode(TEXTS, convert_to_numpy=False)
    assert isinstance(rows, list) and all(isinstance(row, torch.Tensor) for row in rows)
    np.testing.assert_array_equal(torch.stack(rows), expected)
    single = view.encode(TEXTS[0], convert_to_numpy=False)
    assert isinstance(single, torch.Tensor) and single.shape == (encoder.dimension,)


@pytest.mark.parametrize("normalize", [True, False])
def test_normalize_embeddings_is_normalize(encoder: Encoder, view: SentenceTransformerView, normalize: bool) -> None:
    vectors = view.encode(TEXTS, normalize_embeddings=normalize)
    np.testing.assert_array_equal(vectors, encoder.encode(TEXTS, normalize))
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5) == normalize


@pytest.mark.parametrize("normalize", [True, False])
def test_truncated_vectors_are_the_librarys(view: SentenceTransformerView, normalize: bool) -> None:
    raw = util.truncate_embeddings(view.encode(TEXTS, normalize_embeddings=False), 32)
    expected = raw / np.linalg.norm(raw, axis=1, keepdims=True) if normalize else raw
    np.testing.assert_allclose(
        view.encode(TEXTS, normalize_embeddings=normalize, truncate_dim=32), expected, rtol=1e-5, atol=2e-6
    )


@pytest.mark.parametrize(
    "texts",
    [np.array(TEXTS), np.array(TEXTS, object), np.array(TEXTS, "T"), pd.Series(TEXTS, index=range(9, 4, -1))],
    ids=["numpy str", "numpy object", "numpy StringDType", "pandas"],
)
def test_arrays_of_strings_are_texts(encoder: Encoder, texts: object) -> None:
    np.testing.assert_array_equal(encoder.encode(texts), encoder.encode(TEXTS))
    np.testing.assert_array_equal(encoder.encode_texts(texts), encoder.encode(TEXTS))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"precision": "int8"}, "vectors are float32"),
        ({"prompt": "query: "}, "encode_query and encode_document use the model's own"),
        ({"prompt_name": "query"}, "encode_query and encode_document use the model's own"),
        ({"truncate_dim": 0}, "at least 1"),
        ({"device": "nonsense"}, "cannot be used"),
        ({"device": "meta"}, "this encoder computes on cpu; load one with device='meta'"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_is_unsupported_is_refused(
    view: SentenceTransformerView, arguments: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        view.encode(TEXTS, **arguments)


def test_a_text_that_looks_like_a_file_is_told_how_to_be_a_text(
    encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MediaNotFoundError, match=r"a dog\.jpg: no such file"):
        encoder.encode(["a dog.jpg"])
    with pytest.raises(MediaNotFoundError) as failure:
        encoder.encode([Path("gone.jpg")])
    assert "encode_texts" not in str(failure.value)


def test_a_dict_says_what_an_input_is(encoder: Encoder, image_files: list[Path], tmp_path: Path) -> None:
    image = image_files[0]
    with Image.open(image) as opened:
        mixed = encoder.encode([{"image": str(image)}, {"text": "a.jpg"}, {"image": opened.copy()}, "a dog"])
    (expected,) = encoder.encode_images([image])
    np.testing.assert_allclose(mixed[[0, 2]], [expected] * 2, **CLOSE)
    np.testing.assert_allclose(mixed[[1, 3]], encoder.encode_texts(["a.jpg", "a dog"]), **CLOSE)
    assert encoder.encode({"text": "a dog"}).shape == (encoder.dimension,)
    for wrong in ({"text": "a", "image": image}, {"audio": "a.wav"}, {}):
        with pytest.raises(ConfigError, match="one of image, video, text"):
            encoder.encode([wrong])


SENTENCES = ["a red mug", "a dog on a lawn", "a red cup", "two dogs", "a mountain in the snow", "dog.jpg", "a", "b c"]


def score(encoder: Encoder, task: mteb.AbsTask, cache: mteb.ResultCache | None = None, **options: object) -> float:
    """The main score of a task."""
    (result,) = mteb.evaluate(
        encoder.as_sentence_transformer(), task, cache=cache, show_progress_bar=False, **options
    ).task_results
    return result.get_score()


class Similarities(MockSTSTask):
    """Pairs of texts with an encoder's own similarities, which its score must equal."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        left, right = SENTENCES[:-1], SENTENCES[1:]
        view = encoder.as_sentence_transformer()
        scores = view.similarity_pairwise(encoder.encode_texts(left), encoder.encode_texts(right))
        self.dataset = DatasetDict(
            test=Dataset.from_dict({"sentence1": left, "sentence2": right, "score": scores.tolist()})
        )
        self.data_loaded = True


class OwnLabels(MockZeroShotClassificationTask):
    """Images whose labels are the texts most similar to them by an encoder."""

    def __init__(self, encoder: Encoder, draw: Callable[[int], Image.Image]) -> None:
        super().__init__()
        images = [draw(number) for number in range(6)]
        best = encoder.similarity(encoder.encode_images(images), encoder.encode_texts(SENTENCES)).argmax(dim=1)
        self.dataset = DatasetDict(test=Dataset.from_dict({"image": images, "label": best.tolist()}))
        self.data_loaded = True

    def get_candidate_labels(self) -> list[str]:
        return SENTENCES


def test_tasks_of_texts_and_images_give_the_encoders_own_similarities(
    encoder: Encoder, draw: Callable[[int], Image.Image]
) -> None:
    assert score(encoder, Similarities(encoder), encode_kwargs={"batch_size": 3}) == pytest.approx(1)
    assert score(encoder, OwnLabels(encoder, draw)) == 1


def test_a_video_task_ranks_videos_as_the_encoder_does(encoder: Encoder) -> None:
    """Without torchcodec; each query is the text nearest to its video, so the right ranking is the encoder's own."""
    task = MockVideoRetrievalT2V()
    task.load_data()
    split = task.dataset["default"]["test"]
    files = split["corpus"].cast_column("video", Video(decode=False))
    videos = encoder.encode_videos([row["video"]["bytes"] for row in files], frames=4)
    best = encoder.similarity(encoder.encode_texts(split["queries"]["text"]), videos).argmax(dim=1).tolist()
    ids = split["corpus"]["id"]
    split["relevant_docs"] = {query: {ids[at]: 1} for query, at in zip(split["queries"]["id"], best, strict=True)}
    assert score(encoder, task, encode_kwargs={"frames": 4}) == 1
    found = call(encoder, list(files), frames=4)
    np.testing.assert_allclose(found, videos, **CLOSE)


def test_cached_results_are_of_the_same_weights(encoder: Encoder, tmp_path: Path) -> None:
    """Two models of one name: mteb gave the second one the first one's results, had it no revision."""
    cache = mteb.ResultCache(tmp_path)
    other_model = create_model("PE-Core-N16-128")
    with torch.no_grad():
        nn.init.normal_(other_model.text.text_projection)
    other, task = Encoder.of(other_model, "cpu", torch.float32), Similarities(encoder)
    assert other.name == encoder.name
    assert score(encoder, task, cache) == pytest.approx(1)
    assert score(other, task, cache) < 0.99
    assert score(encoder, task, cache) == pytest.approx(1)


def test_a_model_says_what_it_is(encoder: Encoder) -> None:
    meta = encoder.as_sentence_transformer().mteb_model_meta
    assert meta.name == "perception-encoder/PE-Core-N16-128"
    assert meta.embed_dim == encoder.dimension
    assert meta.n_parameters == sum(parameter.numel() for parameter in encoder.model.parameters())
    assert set(meta.modalities) == {"image", "video", "text"}
    half = Encoder.of(create_model("PE-Core-N16-128"), "cpu", torch.bfloat16)
    others = half, encoder.cut(8), encoder.variant(layer=1), encoder.variant(transform="crop")
    assert len({other.as_sentence_transformer().mteb_model_meta.revision for other in (encoder, *others)}) == 5
    assert isinstance(encoder.as_sentence_transformer(), mteb.EncoderProtocol)


def test_a_model_without_a_text_tower_is_refused_for_texts(encoder: Encoder) -> None:
    tower = Encoder.of(encoder.visual, "cpu", torch.float32)
    assert tower.as_sentence_transformer().mteb_model_meta.modalities == ["image", "video"]
    with pytest.raises(ValueError, match="modalities"):
        score(tower, Similarities(encoder))


def call(encoder: Encoder, rows: list[dict[str, object]], **options: object) -> np.ndarray:
    """`encode` as mteb calls it, with rows in batches of two."""
    loader = DataLoader(rows, 2, collate_fn=lambda batch: {key: [row[key] for row in batch] for key in batch[0]})
    view = encoder.as_sentence_transformer()
    return view.encode(loader, task_metadata=object(), hf_split="test", hf_subset="default", **options)


def test_batches_keep_their_order_and_every_argument(encoder: Encoder, draw: Callable[[int], Image.Image]) -> None:
    rows = [{"text": text, "title": "no", "id": 1} for text in SENTENCES]
    expected = encoder.encode_texts(SENTENCES)
    np.testing.assert_allclose(call(encoder, rows), expected, rtol=0, atol=2e-6)
    np.testing.assert_allclose(
        call(encoder, rows, normalize_embeddings=False, truncate_dim=8),
        encoder.encode_texts(SENTENCES, normalize=False)[:, :8],
        rtol=1e-5,
        atol=1e-5,
    )
    images = [draw(number) for number in range(3)]
    layer = call(encoder, [{"image": image} for image in images], layer=0, pool="mean")
    np.testing.assert_allclose(layer, encoder.encode(images, layer=0, pool="mean"), rtol=0, atol=2e-6)


def test_what_mteb_cannot_mean_is_refused(encoder: Encoder, draw: Callable[[int], Image.Image]) -> None:
    with pytest.raises(ConfigError, match="one of image, video, text"):
        call(encoder, [{"image": draw(0), "text": "a dog"}])
    with pytest.raises(ConfigError, match="audio"):
        call(encoder, [{"audio": b""}])
    with pytest.raises(ConfigError, match="float32"):
        call(encoder, [{"text": "a"}], precision="int8")
    with pytest.raises(MediaDecodeError):
        call(encoder, [{"image": b"no image"}])
    with pytest.raises(ConfigError, match="skipped"):
        call(encoder, [{"text": "a"}], skipped={})
