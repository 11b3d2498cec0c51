"""Other libraries' models in index, search, serving, classification and Python: the vectors are the library's own."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fastapi.testclient import TestClient
from PIL import Image

import perception_encoder as pe
from perception_encoder.errors import CheckpointError, ConfigError, MissingExtraError, SearchIndexError
from perception_encoder.models.external_transformers import is_two_tower
from perception_encoder.models.registry import library_model_name, portable_name
from perception_encoder.runtime.library_towers import LibraryTowers
from perception_encoder.search.storage.store import IndexStore
from perception_encoder.search.terms import text_query
from perception_encoder.search_page.library import open_library
from perception_encoder.serving.api import create_app
from perception_encoder.serving.requests import ApiConfig
from perception_encoder.vectors import unit_rows
from tests.clips import clip
from tests.models.external import embedders
from tests.serving.servers import data_uri

TEXTS = ["a red mug", "photo of the dog", "cat"]
PREFIX = {"timm": "timm:local-dir:", "open_clip": "open_clip:local-dir:"}
SAVE: dict[str, Callable[[Path], Path]] = {
    "timm": embedders.save_timm,
    "open_clip": embedders.save_open_clip,
    "hf-CLIP": lambda path: embedders.save_two_towers("CLIP", path),
    "hf-Siglip": lambda path: embedders.save_two_towers("Siglip", path),
    "hf-Siglip2": lambda path: embedders.save_two_towers("Siglip2", path),
    "st-CLIP": embedders.save_sentence_clip,
    "st-Siglip": lambda path: embedders.save_sentence_clip(path, "Siglip"),
    "st-texts": embedders.save_sentence_texts,
    "st-bert": lambda path: embedders.save_sentence_texts(path, "Bert"),
    "st-gemma2": lambda path: embedders.save_sentence_texts(path, "EmbeddingGemma2Text"),
    "st-Siglip2": lambda path: embedders.save_sentence_clip(path, "Siglip2"),
    "st-vlm": embedders.save_sentence_vlm,
}
OF_TEXTS = ["st-texts", "st-bert", "st-gemma2"]
OF_IMAGES = [kind for kind in SAVE if kind not in OF_TEXTS]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The directory of a kind of model, saved once."""
    root, done = tmp_path_factory.mktemp("models"), {}

    def find(kind: str) -> Path:
        if kind not in done:
            done[kind] = SAVE[kind](root / kind.lower())
        return done[kind]

    return find


def name_of(kind: str, directory: Path) -> str:
    library = kind.partition("-")[0]
    return PREFIX.get(library, f"{library}:") + str(directory)


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user who has chosen nothing."""
    monkeypatch.delenv("PE_MODEL", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Five images of several shapes and colours."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, size in enumerate([(60, 40), (40, 60), (50, 50), (80, 32), (33, 47)]):
        pixels = rng.integers(0, 256, (*size[::-1], 3)) // (1 + number)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")
    return folder


def opened(photos: Path) -> list[Image.Image]:
    return [Image.open(path).convert("RGB") for path in sorted(photos.glob("*.png"))]


@torch.inference_mode()
def librarys_own(kind: str, directory: Path, images: list[Image.Image], texts: list[str]) -> tuple[Any, Any, Any]:
    """Unit vectors of images (as documents) and texts (as queries), and the library's logits per image, if any."""
    logits = None
    if kind == "timm":
        import timm

        model = timm.create_model(f"local-dir:{directory}", pretrained=True, num_classes=0).eval()
        transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
        found, asked = model(torch.stack([transform(image) for image in images])), torch.empty(0, 1)
    elif kind == "open_clip":
        import open_clip

        model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{directory}")
        model.eval()
        batch = torch.stack([transform(image) for image in images])
        ids = open_clip.get_tokenizer(f"local-dir:{directory}")(texts)
        found, asked, scale = model(batch, ids)
        logits = scale * found @ asked.T
    elif kind.startswith("hf"):
        from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

        model = AutoModel.from_pretrained(directory).eval()
        pixels = AutoImageProcessor.from_pretrained(directory)(images=images, return_tensors="pt")
        padding = True if kind == "hf-CLIP" else "max_length"
        ids = AutoTokenizer.from_pretrained(directory)(
            texts, padding=padding, truncation=True, max_length=16, return_tensors="pt"
        )
        output = model(**ids, **pixels)
        found, asked, logits = output.image_embeds, output.text_embeds, output.logits_per_image
    else:
        from sentence_transformers import SentenceTransformer

        model = SentenceTransformer(str(directory), device="cpu")
        found = model.encode_document(images, convert_to_tensor=True) if images else torch.empty(0, 1)
        asked = model.encode_query(texts, convert_to_tensor=True)
    return F.normalize(found, dim=-1).numpy(), F.normalize(asked, dim=-1).numpy(), logits


@pytest.mark.parametrize("kind", ["timm", "open_clip", "hf-CLIP", "st-CLIP"])
def test_vectors_of_a_full_size_model_are_the_librarys_own(kind: str, photos: Path, tmp_path: Path) -> None:
    directory, images = embedders.save_full_size(kind, tmp_path / kind.lower()), opened(photos)
    found, asked, _ = librarys_own(kind, directory, images, TEXTS)
    encoder = pe.load(name_of(kind, directory))
    np.testing.assert_allclose(encoder.encode_images(images), found, atol=1e-5)
    if kind != "timm":
        np.testing.assert_allclose(encoder.encode_texts(TEXTS), asked, atol=1e-5)


@pytest.mark.parametrize("resize_mode", ["squash", "longest"])
def test_open_clips_own_way_to_resize_is_kept(
    resize_mode: str, saved: Callable[[str], Path], photos: Path, tmp_path: Path
) -> None:
    """SigLIP of open_clip squashes images."""
    directory = shutil.copytree(saved("open_clip"), tmp_path / "model")
    config = directory / "open_clip_config.json"
    values = json.loads(config.read_text())
    values["preprocess_cfg"] |= {"resize_mode": resize_mode, "interpolation": "bicubic"}
    config.write_text(json.dumps(values))
    found, *_ = librarys_own("open_clip", directory, opened(photos), TEXTS)
    encoder = pe.load(name_of("open_clip", directory))
    np.testing.assert_allclose(encoder.encode_images(opened(photos)), found, atol=1e-5)


@pytest.mark.parametrize("kind", SAVE)
def test_vectors_are_the_librarys_own(kind: str, saved: Callable[[str], Path], photos: Path) -> None:
    images = [] if kind in OF_TEXTS else opened(photos)
    found, asked, _ = librarys_own(kind, saved(kind), images, TEXTS)
    encoder = pe.load(name_of(kind, saved(kind)))
    if images:
        np.testing.assert_allclose(encoder.encode_images(images), found, atol=1e-5)
        np.testing.assert_allclose(encoder.encode(sorted(photos.glob("*.png"))), found, atol=1e-5)
    else:
        with pytest.raises(ConfigError, match="reads texts only"):
            encoder.encode_images(opened(photos))
    if kind == "timm":
        with pytest.raises(ConfigError, match="has no text tower"):
            encoder.encode_texts(TEXTS)
    else:
        np.testing.assert_allclose(encoder.encode_texts(TEXTS), asked, atol=1e-5)
    assert encoder.name == f"{kind.partition('-')[0]}:{saved(kind).name}"


@pytest.mark.parametrize("kind", ["st-CLIP", "st-texts", "st-vlm"])
def test_queries_documents_and_neither_have_the_librarys_prompts(kind: str, saved: Callable[[str], Path]) -> None:
    from sentence_transformers import SentenceTransformer

    model, encoder = SentenceTransformer(str(saved(kind)), device="cpu"), pe.load(f"st:{saved(kind)}")
    for method in ("encode", "encode_query", "encode_document"):
        wanted = getattr(model, method)(TEXTS, normalize_embeddings=True)
        np.testing.assert_allclose(getattr(encoder, method)(TEXTS), wanted, atol=1e-5, err_msg=method)
    assert np.abs(encoder.encode_query(TEXTS) - encoder.encode(TEXTS)).max() > 1e-3
    with pytest.raises(ConfigError, match="role is 'passage'"):
        encoder.encode(TEXTS, role="passage")
    short = encoder.cut(7)
    wanted = model.encode_query(TEXTS, truncate_dim=7, normalize_embeddings=True)
    np.testing.assert_allclose(short.encode_query(TEXTS), wanted, atol=1e-5)
    assert short.dimension == 7 and encoder.dimension > 7
    with pytest.raises(ConfigError, match=f"dimensions is 999; .* has 1 to {encoder.dimension}"):
        encoder.cut(999)


@pytest.mark.parametrize("kind", OF_IMAGES)
def test_index_and_search(kind: str, saved: Callable[[str], Path], photos: Path, run_pe: Any) -> None:
    name = name_of(kind, saved(kind))
    run = run_pe("index", photos, "-m", name)
    assert run.status == 0, run.stderr
    found, asked, _ = librarys_own(kind, saved(kind), opened(photos), TEXTS[:1])
    paths = [str(photos / f"{number}.png") for number in range(5)]
    for query, vector in (() if kind == "timm" else (("a red mug", asked[0]),)) + ((paths[2], found[2]),):
        run = run_pe("search", query, photos, "--json")
        assert run.status == 0, run.stderr
        (result,) = json.loads(run.stdout)["queries"]
        scores = {hit["path"]: hit["score"] for hit in result["hits"]}
        expected = dict(zip(paths, (found @ vector).tolist(), strict=True))
        expected.pop(query, None)
        assert scores == pytest.approx(expected, abs=1e-5)
        assert [hit["path"] for hit in result["hits"]] == sorted(expected, key=lambda path: -expected[path])
    if kind == "timm":
        run = run_pe("search", "a red mug", photos)
        assert run.status != 0 and "has no text tower" in run.stderr and run.stderr.count("\n") == 1
        run = run_pe("classify", photos, "-m", name, "--labels", "dog,cat")
        assert run.status != 0 and "has no text tower" in run.stderr and run.stderr.count("\n") == 1
    settings = IndexStore.open(photos).settings
    assert settings["source"] == name and settings["model"] == library_model_name(name)
    other = "hf-CLIP" if kind != "hf-CLIP" else "hf-Siglip"
    run = run_pe("search", paths[0], photos, "-m", name_of(other, saved(other)))
    assert run.status != 0 and "was made with model" in run.stderr


@pytest.mark.parametrize("runtime", ["torch", "openvino"])
@pytest.mark.parametrize(
    ("kind", "reason"),
    [("tokens", r"shape \(1, \d, 20\) or \(1, 17, 20\), not"), ("size", "image size .*48")],
    ids=["tokens", "size"],
)
def test_a_model_that_gives_no_vectors_is_refused(
    kind: str, reason: str, runtime: Any, photos: Path, run_pe: Any, tmp_path: Path
) -> None:
    if kind == "tokens":
        model = embedders.save_flava(tmp_path / "model")
    else:
        model = embedders.save_two_towers("CLIP", tmp_path / "model")
        preprocessing = model / "preprocessor_config.json"
        preprocessing.write_text(preprocessing.read_text().replace("32", "48"))
    with pytest.raises(CheckpointError, match=f"model: it gives no embeddings .*{reason}"):
        pe.load(f"hf:{model}", runtime=runtime)
    run = run_pe("index", photos, "-m", f"hf:{model}")
    assert run.status == 2 and run.stderr.count("\n") == 1 and not IndexStore.exists(photos)


def test_a_model_of_texts_makes_no_index(saved: Callable[[str], Path], photos: Path, run_pe: Any, config: None) -> None:
    run = run_pe("index", photos, "-m", f"st:{saved('st-texts')}")
    assert run.status != 0 and run.stderr == "error: st:st-texts reads texts only; an index needs a model of images\n"
    assert not IndexStore.exists(photos) and run_pe("index", photos).status == 0


@pytest.mark.parametrize("kind", ["open_clip", "hf-Siglip", "st-vlm", "timm"])
def test_the_api_and_the_page(kind: str, saved: Callable[[str], Path], photos: Path) -> None:
    name, images = name_of(kind, saved(kind)), opened(photos)
    found, asked, _ = librarys_own(kind, saved(kind), images, TEXTS)
    library = open_library(photos, pe.ModelSpec(name))
    library.update()
    library.index.refresh()
    assert not library.progress.error and library.index.count() == 5
    if kind == "timm":
        with pytest.raises(ConfigError, match="has no text tower"):
            library.find(text_query("a red mug"), None, 5)
    else:
        hits = library.find(text_query(TEXTS[0]), None, 5)
        assert [hit.score for hit in hits] == pytest.approx(sorted(found @ asked[0], reverse=True), abs=1e-5)
    with TestClient(create_app(library.encoder, ApiConfig(source=name)), base_url="http://localhost") as client:
        answer = client.post("/v1/embeddings", json={"input": [{"image": data_uri(image)} for image in images]})
        assert answer.status_code == 200, answer.text
        vectors = [row["embedding"] for row in answer.json()["data"]]
        np.testing.assert_allclose(vectors, found, atol=1e-5)
        assert str(saved(kind)) not in answer.text and answer.json()["model"] == library.encoder.name
        answer = client.post("/v1/embeddings", json={"input": TEXTS, "model": name})
        assert (answer.status_code == 400) == (kind == "timm")


def test_the_api_uses_the_part_of_a_model_that_is_for_queries(tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    directory = embedders.save_sentence_router(tmp_path / "router")
    with pytest.raises(ConfigError, match="omit runtime and precision"):
        pe.load(f"st:{directory}", runtime="openvino")  # its static embeddings are looked up
    model, encoder = SentenceTransformer(str(directory), device="cpu"), pe.load(f"st:{directory}")
    asked, found = (encode(TEXTS, normalize_embeddings=True) for encode in (model.encode_query, model.encode_document))
    assert encoder.towers.prompts == {} and np.abs(asked - found).max() > 0.1
    with TestClient(create_app(encoder, ApiConfig()), base_url="http://localhost") as client:
        answer = client.post("/v1/rerank", json={"query": TEXTS[0], "documents": TEXTS}).json()
        scores = {row["index"]: row["relevance_score"] for row in answer["results"]}
        assert scores == pytest.approx(dict(enumerate((found @ asked[0]).tolist())), abs=1e-5)
        for role, wanted in (("query", asked), ("document", found)):
            answer = client.post("/v1/embeddings", json={"input": TEXTS, "input_type": role}).json()
            np.testing.assert_allclose([row["embedding"] for row in answer["data"]], wanted, atol=1e-5)
        refused = client.post("/v1/embeddings", json={"input": TEXTS, "input_type": "passage"})
        assert refused.status_code == 400 and "should be 'query' or 'document'" in refused.text


def test_the_api_ranks_by_a_model_of_texts(saved: Callable[[str], Path]) -> None:
    encoder = pe.load(f"st:{saved('st-texts')}")
    with TestClient(create_app(encoder, ApiConfig()), base_url="http://localhost") as client:
        answer = client.post("/v1/rerank", json={"query": TEXTS[0], "documents": TEXTS}).json()
        wanted = encoder.encode_document(TEXTS) @ encoder.encode_query(TEXTS[0])
        assert [row["index"] for row in answer["results"]] == np.argsort(-wanted).tolist()
        refused = client.post("/v1/rerank", json={"query": TEXTS[0], "documents": [{"image": "data:image/png,"}]})
        assert refused.status_code == 400 and "takes texts only" in refused.text


@pytest.mark.parametrize("kind", ["open_clip", "hf-CLIP", "hf-Siglip", "st-vlm"])
def test_classification_has_the_models_own_scale(kind: str, saved: Callable[[str], Path], photos: Path) -> None:
    labels = ["dog", "cat"]
    found, asked, logits = librarys_own(kind, saved(kind), opened(photos), labels)
    if logits is None:
        logits = torch.from_numpy(20 * found @ asked.T)
    wanted = logits.sigmoid() if kind == "hf-Siglip" else logits.softmax(dim=1)
    encoder = pe.load(name_of(kind, saved(kind)))
    result = pe.classify(photos, labels, prompts="name", model=encoder)
    got = [[dict(file.labels)[label] for label in labels] for file in result]
    np.testing.assert_allclose(got, wanted.numpy(), atol=1e-4)


@pytest.mark.parametrize("kind", ["st-CLIP", "open_clip"])
def test_evaluation_takes_the_models_own_transform(
    kind: str, saved: Callable[[str], Path], photos: Path, tmp_path: Path, run_pe: Any
) -> None:
    for number, path in enumerate(sorted(photos.glob("*.png"))[:4]):
        target = tmp_path / "data" / ("train", "val")[number // 2] / ("dog", "cat")[number % 2] / path.name
        target.parent.mkdir(parents=True)
        path.rename(target)
    name, both = name_of(kind, saved(kind)), ["crop"] if kind == "st-CLIP" else ["squash", "crop"]
    given = ["--data", tmp_path / "data", "--split", "val", "-o", tmp_path / "out.json"]
    for task, wanted, more in (("knn", both[:1], ("--k", "1")), ("classification", both, ("--prompts", "name"))):
        run = run_pe("eval", task, name, *given, *more)
        assert run.status == 0, run.stderr
        scores = json.loads((tmp_path / "out.json").read_text())["scores"]
        assert list(dict.fromkeys(score["transform"] for score in scores)) == wanted
        (tmp_path / "out.json").unlink()
    run = run_pe("eval", "knn", name, *given, "--k", "1", "--transform", "squash")
    assert (run.status != 0) == (kind == "st-CLIP")
    assert run.status == 0 or "has its own preprocessing; omit the transform, or use crop" in run.stderr


def test_videos_are_read_whole_where_the_model_reads_them(saved: Callable[[str], Path], tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(clip(30))
    from perception_encoder.preprocess.media import open_media, resolve

    frames: Any = open_media(resolve(path), 4)
    encoder = pe.load(f"st:{saved('st-vlm')}")
    rate = 3 / (frames.times[-1] - frames.times[0])
    metadata = {"total_num_frames": 4, "frames_indices": [0, 1, 2, 3], "fps": rate}
    video = {"array": np.stack([np.asarray(image) for image in frames.images]), "video_metadata": metadata}
    options = {"processing_kwargs": {"video": {"do_sample_frames": False}}, "normalize_embeddings": True}
    wanted = encoder.model.encode([{"video": video}], **options)[0]
    np.testing.assert_allclose(encoder.encode(path, frames=4), wanted, atol=1e-5)
    by_frames = pe.load(f"st:{saved('st-CLIP')}")
    mean = unit_rows(by_frames.encode_images(frames.images, normalize=False).mean(axis=0))
    np.testing.assert_allclose(by_frames.encode(path, frames=4), mean, atol=1e-5)


def test_an_index_keeps_its_dimensions_and_rejects_others(
    saved: Callable[[str], Path], photos: Path, run_pe: Any, tmp_path: Path
) -> None:
    name = f"st:{saved('st-vlm')}"
    assert run_pe("index", photos, "-m", name, "--dimensions", "16").status == 0
    assert IndexStore.open(photos).settings["dimension"] == 16 == IndexStore.open(photos).settings["dimensions"]
    for options in ([], ["-m", name], ["--dimensions", "16"]):
        run = run_pe("search", "a dog", photos, *options)
        assert run.status == 0, run.stderr
    run = run_pe("search", "a dog", photos, "--dimensions", "8")
    assert run.status != 0 and "dimension 16, not 8" in run.stderr
    assert run_pe("index", photos).status == 0  # an update keeps them
    out = tmp_path / "photos.parquet"
    assert run_pe("embed", photos, "-o", out, "-m", name, "--dimensions", "16").status == 0
    direct = run_pe("search", "a dog", out, "-m", name, "--json")
    indexed = run_pe("search", "a dog", photos, "--json")
    scores = [[hit["score"] for hit in json.loads(run.stdout)["queries"][0]["hits"]] for run in (direct, indexed)]
    assert scores[0] == pytest.approx(scores[1], abs=1e-5)


def test_a_smaller_model_than_an_indexs_dimensions_is_another_model(
    saved: Callable[[str], Path], photos: Path, run_pe: Any, tmp_path: Path
) -> None:
    model, smaller = tmp_path / "model", name_of("open_clip", saved("open_clip"))  # of 32 and 16
    shutil.copytree(saved("st-vlm"), model)
    assert run_pe("index", photos, "-m", f"st:{model}", "--dimensions", "24").status == 0
    run = run_pe("search", "a dog", photos, "-m", smaller)
    assert run.status == 2 and "made with model st:model, not open_clip:open_clip; use that model, or" in run.stderr
    with pytest.raises(SearchIndexError, match="made with model st:model"):
        open_library(photos, pe.ModelSpec(smaller))
    out = tmp_path / "photos.parquet"
    assert run_pe("embed", photos, "-o", out, "-m", f"st:{model}", "--dimensions", "24").status == 0
    run = run_pe("search", "a dog", out, "-m", smaller)
    assert run.status == 2 and "choose st:model" in run.stderr
    shutil.rmtree(model)
    shutil.copytree(saved("st-CLIP"), model)  # of 20, under the name of the index's
    run = run_pe("index", photos)
    assert run.status == 2 and "dimension 24, not 20, " in run.stderr and "use that model, or rebuild" in run.stderr


def test_an_index_of_other_prompts_is_refused(saved: Callable[[str], Path], photos: Path, tmp_path: Path) -> None:
    model = shutil.copytree(saved("st-vlm"), tmp_path / "model")
    pe.open_index(photos, f"st:{model}").update()
    config = model / "config_sentence_transformers.json"
    prompts = {"prompts": {"query": "text : ", "document": ""}}
    config.write_text(json.dumps(json.loads(config.read_text()) | prompts))
    with pytest.raises(SearchIndexError, match="was made with prompts"):
        pe.open_index(photos).search("a dog")


def test_names_of_libraries_are_told_from_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for made in ("openai", "vit", "org/model"):
        (tmp_path / made).mkdir(parents=True)
    (tmp_path / "w.pt").touch()
    assert portable_name("open_clip:ViT-B-32,openai") == "open_clip:ViT-B-32,openai"
    assert portable_name("open_clip:ViT-B-32,w.pt") == f"open_clip:ViT-B-32,{tmp_path}/w.pt"
    assert portable_name("timm:vit") == "timm:vit"
    assert portable_name("timm:local-dir:vit") == f"timm:local-dir:{tmp_path}/vit"
    assert portable_name("hf:org/model") == f"hf:{tmp_path}/org/model"
    assert portable_name("st:google/embeddinggemma-300m") == "st:google/embeddinggemma-300m"
    assert portable_name("vit") == f"{tmp_path}/vit" and portable_name("builtin") == "builtin"
    assert library_model_name("timm:local-dir:vit") == "timm:vit"
    assert library_model_name("open_clip:ViT-B-32,w.pt") == "open_clip:ViT-B-32,w.pt"


@pytest.mark.parametrize("kind", ["timm", "open_clip", "hf-CLIP", "st-CLIP"])
def test_a_missing_library_names_the_extra(
    kind: str, saved: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = name_of(kind, saved(kind))
    module = {"st": "sentence_transformers", "hf": "transformers"}.get(name.partition(":")[0], name.partition(":")[0])
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=r"perception-encoder\[encoders\]"):
        pe.load(name)


@pytest.mark.security
@pytest.mark.parametrize("library", ["hf", "st"])
def test_a_models_own_code_runs_only_if_trusted_and_that_is_not_stored(
    library: str, saved: Callable[[str], Path], photos: Path, tmp_path: Path, run_pe: Any, config: None
) -> None:
    model, mark = tmp_path / "model", tmp_path / "mark"
    shutil.copytree(saved("hf-CLIP" if library == "hf" else "st-CLIP"), model)
    embedders.add_own_code(library, model, mark)
    name = f"{library}:{model}"
    for command in (["index", photos, "-m", name], ["search", "a dog", photos, "-m", name], ["models", "use", name]):
        run = run_pe(*command)
        assert run.status != 0 and run.stderr.count("\n") == 1, run.stderr
        assert "add --trust-remote-code" in run.stderr, run.stderr
        assert not mark.exists()
    assert run_pe("index", photos, "-m", name, "--trust-remote-code").status == 0 and mark.exists()
    mark.unlink()
    run = run_pe("search", "a dog", photos)
    assert run.status != 0 and "add --trust-remote-code" in run.stderr and not mark.exists()
    assert run_pe("search", "a dog", photos, "--trust-remote-code").status == 0
    classes = tmp_path / "classes"
    for name_of_class, path in zip("ab", sorted(photos.glob("*.png"))[:2], strict=True):
        (classes / name_of_class).mkdir(parents=True)
        for number in range(10):
            shutil.copy(path, classes / name_of_class / f"{number}.png")
    commands = [["eval", "knn", name, "--data", classes, "--k", "1"]]
    if library == "hf":
        layers = ["layers", name, "--data", classes, "--tasks", "classification", "--layer", "-1", "--baseline", name]
        commands += [["eval", "attentive", name, "--data", classes, "--epochs", "1"], [*layers, "-o", tmp_path / "out"]]
    for command in commands:
        refused = run_pe(*command)
        assert refused.status != 0 and "add --trust-remote-code" in refused.stderr
        run = run_pe(*command, "--trust-remote-code")
        assert run.status == 0 or "two models have the name" in run.stderr, run.stderr  # `pe layers`, once loaded


@pytest.mark.security
def test_a_text_that_looks_like_a_file_is_a_text(saved: Callable[[str], Path], photos: Path) -> None:
    """sentence-transformers opens strings that name images."""
    encoder = pe.load(f"st:{saved('st-CLIP')}")
    path = str(photos / "0.png")
    as_text = encoder.encode_texts([path, "http://127.0.0.1:9/x.png"])
    assert np.abs(as_text[0] - encoder.encode_images([Image.open(path)])[0]).max() > 1e-3


def test_another_precision_and_device(saved: Callable[[str], Path], photos: Path) -> None:
    name = name_of("hf-CLIP", saved("hf-CLIP"))
    exact, rounded = pe.load(name), pe.load(name, precision="bfloat16")
    assert (exact.runtime.precision, rounded.runtime.precision) == ("float32", "bfloat16")
    cosines = (exact.encode_images(opened(photos)) * rounded.encode_images(opened(photos))).sum(axis=1)
    assert cosines.min() > 0.99 and cosines.max() < 1 + 1e-5
    assert exact.weight_hash == rounded.weight_hash and exact.logit_scale == rounded.logit_scale
    assert is_two_tower(exact.model)


def test_a_layer_leaves_the_encoder_as_it_is(
    saved: Callable[[str], Path], photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They share the weights, and on some machines layers are in bfloat16 by default."""
    monkeypatch.setattr("perception_encoder.runtime.layer_towers.fast_dtype", lambda device: torch.bfloat16)
    encoder, images = pe.load(name_of("hf-CLIP", saved("hf-CLIP"))), opened(photos)
    before = encoder.encode_images(images)
    assert encoder.variant(layer=0, pool="mean").encode_images(images).shape == (5, 24)
    np.testing.assert_array_equal(encoder.encode_images(images), before)


def test_whole_images_wait_in_small_numbers(saved: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """sentence-transformers takes images at their full size, up to half a gigabyte each."""
    encoder = pe.load(f"st:{saved('st-vlm')}")
    monkeypatch.setattr("torch.get_num_threads", lambda: 96)
    monkeypatch.setattr("os.cpu_count", lambda: 96)
    assert encoder.runtime.workers * encoder.batch_size <= 64
    assert LibraryTowers(encoder.towers.adapter, torch.device("meta")).runtime.batch_size == 8


@pytest.mark.parametrize("kind", ["hf-CLIP", "hf-Siglip", "st-texts"])
def test_a_missing_tokenizer_is_one_line(
    kind: str, saved: Callable[[str], Path], photos: Path, tmp_path: Path, run_pe: Any
) -> None:
    """transformers makes an empty one of some models."""
    directory = shutil.copytree(saved(kind), tmp_path / "model")
    for file in directory.glob("tokenizer*"):
        file.unlink()
    (photos / "texts.csv").write_text("text\na dog\n")
    run = run_pe("embed", photos / "texts.csv", "-o", tmp_path / "out.parquet", "-m", name_of(kind, directory))
    assert run.status != 0 and run.stderr.count("\n") == 1, run.stderr
    assert "/model: its tokenizer cannot be loaded (" in run.stderr
