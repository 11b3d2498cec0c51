"""The embedding server with the clients that people have: openai's, LangChain's and infinity's, over a real socket."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import httpx
import infinity_client
import numpy as np
import openai
import pytest
import tiktoken
from infinity_client.api.default import embeddings, embeddings_image, health, models
from infinity_client.models import (
    ImageEmbeddingInput,
    OpenAIEmbeddingInputImage,
    OpenAIEmbeddingInputImageModality,
    OpenAIEmbeddingInputText,
)
from infinity_client.vision_client import InfinityVisionAPI
from langchain_openai import OpenAIEmbeddings
from PIL import Image

from perception_encoder.inference.encoder import Encoder
from perception_encoder.serving.api import create_app
from perception_encoder.serving.requests import ApiConfig
from tests.serving.servers import data_uri, served

NAME = "PE-Core-N16-128"
TEXTS = ["a red mug", "a dog"]


@pytest.fixture(scope="module")
def address(encoder: Encoder) -> Iterator[str]:
    with served(create_app(encoder, ApiConfig())) as address:
        yield address


@pytest.fixture
def client(address: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_openai_two_thousand_inputs_are_one_request(client: openai.OpenAI, encoder: Encoder) -> None:
    texts = [f"image number {number}" for number in range(2048)]
    answer = client.embeddings.create(model=NAME, input=texts)
    assert [row.index for row in answer.data] == list(range(2048))
    some = [0, 63, 64, 1000, 2047]
    expected = encoder.encode_texts([texts[number] for number in some])
    np.testing.assert_allclose([answer.data[number].embedding for number in some], expected, atol=1e-4)
    with pytest.raises(openai.BadRequestError, match="1 to 2048"):
        client.embeddings.create(model=NAME, input=["a"] * 2049)
    with pytest.raises(openai.BadRequestError, match="2,000,000 characters"):
        client.embeddings.create(model=NAME, input=["a" * 20_000] * 101)


def test_openai_models(client: openai.OpenAI) -> None:
    assert client.models.retrieve("builtin").id == client.models.retrieve(NAME).id == NAME
    for ask in (
        lambda: client.models.retrieve("text-embedding-3-small"),
        lambda: client.embeddings.create(model="text-embedding-3-small", input="a dog"),
    ):
        with pytest.raises(openai.NotFoundError) as caught:
            ask()
        assert caught.value.code == "model_not_found" and caught.value.param == "model"
        assert NAME in caught.value.message


@pytest.fixture
def cl100k(monkeypatch: pytest.MonkeyPatch) -> None:
    """tiktoken's default encoding without its download: bytes as ids, as far as those of short texts go."""
    encoding = tiktoken.Encoding(
        "cl100k_base", pat_str=".+", mergeable_ranks={bytes([n]): n for n in range(256)}, special_tokens={}
    )
    monkeypatch.setattr(tiktoken, "get_encoding", lambda name: encoding)


@pytest.mark.usefixtures("cl100k")
def test_langchain_is_told_the_setting_to_use(address: str, encoder: Encoder) -> None:
    settings = {"model": NAME, "base_url": f"{address}/v1", "api_key": "none", "max_retries": 0}
    with pytest.raises(openai.BadRequestError, match="check_embedding_ctx_length=False"):
        OpenAIEmbeddings(**settings).embed_documents(TEXTS)
    works = OpenAIEmbeddings(**settings, check_embedding_ctx_length=False)
    np.testing.assert_allclose(works.embed_documents(TEXTS), encoder.encode_texts(TEXTS), atol=1e-4)
    np.testing.assert_allclose(works.embed_query("a dog"), encoder.encode_texts("a dog"), atol=1e-4)


@pytest.mark.parametrize("base", ["", "/v1"])
def test_infinity(address: str, base: str, encoder: Encoder, draw: Callable[[int], Image.Image]) -> None:
    image = draw(3)
    with infinity_client.Client(base_url=address + base) as client:
        (about,) = models.sync(client=client).data
        assert about.id == NAME and about.stats["queue_absolute"] == 0 and about.stats["batch_size"] == 64
        assert set(about.capabilities) == {"embed", "image_embed"}
        assert health.sync(client=client)["unix"] > 1e9
        found = embeddings.sync(client=client, body=OpenAIEmbeddingInputText(TEXTS))
        np.testing.assert_allclose([row.embedding for row in found.data], encoder.encode_texts(TEXTS), atol=1e-4)
        expected = encoder.encode_images([image])
        as_image = OpenAIEmbeddingInputImage(data_uri(image), modality=OpenAIEmbeddingInputImageModality.IMAGE)
        for found in (
            embeddings.sync(client=client, body=as_image),
            embeddings_image.sync(client=client, body=ImageEmbeddingInput(data_uri(image))),
        ):
            np.testing.assert_allclose([row.embedding for row in found.data], expected, atol=1e-4)
    assert httpx.get(f"{address}{base}/metrics").status_code == 200


def test_infinitys_vision_client(address: str, encoder: Encoder, draw: Callable[[int], Image.Image]) -> None:
    client = InfinityVisionAPI(url=address, model=NAME)
    found, tokens = client.embed(NAME, TEXTS).result(timeout=60)
    np.testing.assert_allclose(np.concatenate(found), encoder.encode_texts(TEXTS), atol=1e-4)
    assert tokens > 6
    found, _ = client.image_embed(NAME, [draw(3)]).result(timeout=60)
    assert found[0].shape == (1, encoder.dimension)
    client.tp.shutdown()
    client.session.close()
