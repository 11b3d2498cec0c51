"""Directories that other libraries load by themselves: their own preprocessing and ours give the same embeddings."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import numpy as np
import open_clip
import pytest
import skimage.data
import timm
import timm.data
import torch
from datasets import Dataset
from PIL import ExifTags, Image, ImageOps
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from transformers import AutoModel, AutoModelForImageClassification

import perception_encoder as pe
from perception_encoder.errors import CheckpointError
from perception_encoder.exports.card import published_scores
from perception_encoder.exports.layouts import open_clip_config, write_layout_directory
from perception_encoder.inference.encoder import Encoder
from perception_encoder.models.checkpoints.weights import build, create_model
from perception_encoder.models.clip import CLIP
from perception_encoder.models.config import VisionConfig
from perception_encoder.models.registry import MODELS, find_model
from perception_encoder.models.vision_transformer import VisionTransformer
from perception_encoder.preprocess.image import image_transform
from perception_encoder.preprocess.tokenizer import tokenizer
from tests.cards import run_card
from tests.golden_weights import fill
from tests.models.oracles import OPEN_CLIP_MODELS, relative_error
from tests.web import serving

TOLERANCE = 1e-5
NANO = find_model("builtin").vision


@pytest.fixture(scope="module")
def photograph() -> Image.Image:
    """A real one, higher than wide, so that squashing and cropping differ."""
    return Image.fromarray(skimage.data.astronaut()[:, 60:440])


def load_timm(model: CLIP | VisionTransformer, directory: Path) -> torch.nn.Module:
    write_layout_directory(model, directory, "timm")
    return timm.create_model(f"local-dir:{directory}", pretrained=True).eval()


def preprocess_with_timm(model: torch.nn.Module, image: Image.Image) -> torch.Tensor:
    return timm.data.create_transform(**timm.data.resolve_data_config({}, model=model))(image)[None]


@torch.no_grad()
@pytest.mark.parametrize("name", ["PE-Spatial-T16-512", "builtin"])
def test_timm_loads_the_directory_and_preprocesses_as_we_do(name: str, photograph: Image.Image, tmp_path: Path) -> None:
    model = create_model(name)
    theirs = load_timm(model, tmp_path / name)
    config = theirs.pretrained_cfg
    assert (config["interpolation"], config["crop_mode"], config["crop_pct"]) == ("bilinear", "squash", 1.0)
    tower = model.visual if isinstance(model, CLIP) else model
    pixels, their_pixels = image_transform(model)(photograph)[None], preprocess_with_timm(theirs, photograph)
    assert relative_error(tower.forward_features(pixels), theirs.forward_features(their_pixels)) < TOLERANCE
    if tower.config.pools:
        assert relative_error(tower(pixels), theirs(their_pixels)) < TOLERANCE


@torch.no_grad()
@pytest.mark.parametrize(
    "config",
    [
        replace(NANO, rope=False),
        replace(NANO, attention_pool=False),
        replace(NANO, class_token=False, depth=2),
        replace(NANO, image_size=192, heads=6, mlp_width=384, layer_scale=0.1, output_dim=40),
    ],
    ids=["no rope", "projected class token", "no class token", "other sizes"],
)
def test_timm_builds_towers_it_does_not_list(config: VisionConfig, photograph: Image.Image, tmp_path: Path) -> None:
    with torch.device("meta"):
        tower = VisionTransformer(config, "PE-Core-N16-128")
    fill(tower)
    theirs = load_timm(tower, tmp_path / "out")
    pixels = preprocess_with_timm(theirs, photograph)
    assert relative_error(tower(image_transform(tower)(photograph)[None]), theirs(pixels)) < TOLERANCE


TOKENS = replace(NANO, attention_pool=False, final_norm=False, output_dim=None)


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "config", "half"),
    [
        ("PE-Lang-L14-448", replace(TOKENS, layer_scale=0.1), False),
        ("PE-Spatial-G14-448", replace(TOKENS, class_token=False), True),
        ("PE-Spatial-T16-512", TOKENS, False),
        ("PE-Core-N16-128", NANO, True),
        ("PE-Core-N16-128", replace(NANO, attention_pool=False), False),
    ],
)
def test_transformers_loads_every_kind_of_exported_encoder(
    name: str, config: VisionConfig, half: bool, tmp_path: Path
) -> None:
    with torch.device("meta"):
        tower = VisionTransformer(replace(config, depth=2), name)
    fill(tower)
    before = {name: value.clone() for name, value in tower.state_dict().items()}
    write_layout_directory(tower, tmp_path, "timm", half)
    assert before.keys() == tower.state_dict().keys(), "the model is not changed"
    if half:
        tower.half().float()
    pixels = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(0)) * 2 - 1
    theirs, report = AutoModel.from_pretrained(tmp_path, dtype=torch.float32, output_loading_info=True)
    assert not report["missing_keys"]
    tokens = theirs.eval()(pixels).last_hidden_state
    assert relative_error(tower.forward_features(pixels), tokens) < TOLERANCE
    if config.output_dim is not None:
        assert {key.rsplit(".", 1)[0] for key in report["unexpected_keys"]} == {"timm_model.head"}
        classifier = AutoModelForImageClassification.from_pretrained(tmp_path, dtype=torch.float32).eval()
        assert relative_error(tower(pixels), classifier(pixels).logits) < TOLERANCE


@torch.no_grad()
def test_open_clip_loads_the_directory_and_preprocesses_as_we_do(photograph: Image.Image, tmp_path: Path) -> None:
    model = create_model("PE-Core-T16-384")
    assert isinstance(model, CLIP)
    assert write_layout_directory(model, tmp_path / "out", "open_clip") == 0
    source = f"local-dir:{tmp_path / 'out'}"
    theirs, preprocess = open_clip.create_model_from_pretrained(source)
    theirs.eval()
    ours = model.encode_image(image_transform(model)(photograph)[None])
    assert relative_error(ours, theirs.encode_image(preprocess(photograph)[None])) < TOLERANCE
    texts = ["a red mug", "an astronaut in front of a flag"]
    tokens = open_clip.get_tokenizer(source)(texts)
    assert torch.equal(tokens, tokenizer(model)(texts))
    assert relative_error(model.encode_text(tokens), theirs.encode_text(tokens)) < TOLERANCE

    weights = str(tmp_path / "out" / "open_clip_model.safetensors")
    by_name, _, other = open_clip.create_model_and_transforms("PE-Core-T-16-384", pretrained=weights)
    by_name.eval()
    assert relative_error(ours, by_name.encode_image(other(photograph)[None])) > 0.1  # what the directory is for


def test_open_clips_configuration_is_its_own() -> None:
    for name in OPEN_CLIP_MODELS:
        config = open_clip_config(build(MODELS[name]))["model_cfg"]
        assert config == open_clip.get_model_config(MODELS[name].open_clip), name


def test_what_open_clip_cannot_build_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    for model, message in (
        (create_model("builtin"), "only the published vision towers"),
        (create_model("PE-Spatial-T16-512"), "only two-tower models"),
    ):
        with pytest.raises(CheckpointError, match=message):
            write_layout_directory(model, tmp_path / "out", "open_clip")
    assert not (tmp_path / "out").exists()


TEXTS = ["a red mug", "an astronaut  in front of\na FLAG!", "!", "word " * 60]


@pytest.mark.filterwarnings("ignore::perception_encoder.preprocess.tokenizer.TruncationWarning")
@pytest.mark.parametrize(("name", "half"), [("PE-Core-T16-384", False), ("builtin", True)])
def test_sentence_transformers_gives_the_same_vectors(
    name: str, half: bool, photograph: Image.Image, tmp_path: Path
) -> None:
    model = create_model(name, pretrained=True if name == "builtin" else None)
    write_layout_directory(model, tmp_path / "out", "sentence-transformers", half)
    theirs = SentenceTransformer(str(tmp_path / "out"), device="cpu", trust_remote_code=False)
    encoder = Encoder.of(model.half().float() if half else model, "cpu", torch.float32)
    assert theirs.get_embedding_dimension() == encoder.dimension
    for inputs in (TEXTS, [photograph, photograph.rotate(90, expand=True)]):
        assert abs(theirs.encode(inputs, batch_size=3) - encoder.encode(inputs)).max() < TOLERANCE


_ALONE = """
import sys

class Blocker:
    def find_spec(self, name, *_):
        if name.partition(".")[0] == "perception_encoder":
            raise ImportError(name)

sys.meta_path.insert(0, Blocker())
import numpy
from datasets import Dataset
from PIL import Image
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

directory, url = sys.argv[1:]
model = SentenceTransformer(directory, device="cpu")
image = Image.open("a.png")
inputs = ["a.png", url, image, *map(image.convert, ("L", "P", "RGBA", "LA"))]
texts = ["a red mug", "missing.png", "copy"]
try:
    model.encode([image, *texts])
except ValueError as error:
    print(error)
vectors = [model.encode(inputs), model.encode(texts), model.encode([*inputs, *texts], batch_size=1)]
numpy.save("vectors.npy", numpy.concatenate(vectors))
"""


def test_sentence_transformers_takes_every_kind_of_image_without_us(photograph: Image.Image, tmp_path: Path) -> None:
    """A batch of texts and images is more than the library can do, with its own CLIP models too; it says so."""
    pe.convert("builtin", tmp_path / "st", to="sentence-transformers")
    photograph.save(tmp_path / "a.png")
    (tmp_path / "copy").mkdir()
    content = (tmp_path / "a.png").read_bytes()

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        handler.wfile.write(content)

    with serving(answer) as url:
        run = [sys.executable, "-P", "-c", _ALONE, str(tmp_path / "st"), f"{url}/a.png"]
        printed = subprocess.run(run, cwd=tmp_path, check=True, capture_output=True, text=True).stdout
    assert "Encode each modality separately" in printed
    encoder = Encoder.of(create_model("builtin", pretrained=True), "cpu", torch.float32)
    images = [photograph] * 3 + [photograph.convert(mode) for mode in ("L", "P", "RGBA", "LA")]
    expected = np.concatenate([encoder.encode(images), encoder.encode_texts(["a red mug", "missing.png", "copy"])])
    assert abs(np.load(tmp_path / "vectors.npy") - np.concatenate([expected, expected])).max() < TOLERANCE


def unusual_images(photograph: Image.Image) -> dict[str, Image.Image]:
    """Images with real alpha, with 16 bits, and turned by EXIF."""
    alpha = np.zeros(photograph.size[::-1], np.uint8)
    alpha[100:400, 80:300] = 255
    alpha[200:300] //= 2
    images = {mode: photograph.convert(mode[: mode.index("A")]) for mode in ("RGBA", "LA")}
    for image in images.values():
        image.putalpha(Image.fromarray(alpha))
    images["P"] = photograph.convert("P", palette=Image.Palette.ADAPTIVE)
    images["P"].info["transparency"] = bytes(128) + bytes([255]) * 128
    images["I;16"] = Image.fromarray(np.asarray(photograph.convert("L")).astype(np.uint16) * 257)
    images["turned"] = photograph.copy()
    images["turned"].getexif()[ExifTags.Base.Orientation] = 6
    return images


def test_the_card_says_how_to_prepare_what_sentence_transformers_reads_in_its_own_way(
    photograph: Image.Image, tmp_path: Path
) -> None:
    pe.convert("builtin", tmp_path / "st", to="sentence-transformers")
    theirs = SentenceTransformer(str(tmp_path / "st"), device="cpu")
    encoder = Encoder.of(create_model("builtin", pretrained=True), "cpu", torch.float32)
    card = (tmp_path / "st" / "README.md").read_text()
    size = json.loads((tmp_path / "st" / "image_0_Transformer" / "preprocessor_config.json").read_text())["size"]
    known = {"Image": Image, "ImageOps": ImageOps, "numpy": np, "size": next(iter(size.values()))}
    turn, resize, opaque, eight_bit = re.findall(r"`((?:image|Image|ImageOps)\.[^`]+)`", card)
    for mode, remedy in zip(unusual_images(photograph), (resize, resize, opaque, eight_bit, turn), strict=True):
        image = unusual_images(photograph)[mode]
        ours = encoder.encode_images([unusual_images(photograph)[mode]])
        assert float(np.sum(ours * theirs.encode([image]))) < 0.99, f"{mode} needs no remedy"
        prepared = eval(remedy, known | {"image": image})
        found = theirs.encode([image if mode == "P" else prepared])
        assert abs(found - ours).max() < TOLERANCE, mode


def test_openvino_computes_an_exported_directory(photograph: Image.Image, tmp_path: Path) -> None:
    pe.convert("builtin", tmp_path / "st", to="sentence-transformers")
    encoder = pe.load(f"st:{tmp_path / 'st'}", runtime="openvino", precision="float32")
    ours = Encoder.of(create_model("builtin", pretrained=True), "cpu", torch.float32)
    assert encoder.runtime.used(None) == encoder.runtime.used(None, texts=True) == ("openvino", "float32")
    images = [photograph, photograph.rotate(90, expand=True)]
    assert abs(encoder.encode(images) - ours.encode(images)).max() < 1e-3
    assert abs(encoder.encode_texts(TEXTS[:3]) - ours.encode_texts(TEXTS[:3])).max() < 1e-3


def test_sentence_transformers_trains_an_exported_model(tmp_path: Path, photograph: Image.Image) -> None:
    pe.convert("builtin", tmp_path / "start", to="sentence-transformers")
    model = SentenceTransformer(str(tmp_path / "start"), device="cpu")
    images = [photograph, photograph.rotate(90), photograph.convert("L")]
    before, texts = model.encode(images), ["a cat", "a cat on its side", "a grey cat"]
    pairs = Dataset.from_dict({"image": images, "caption": texts})
    arguments = SentenceTransformerTrainingArguments(
        str(tmp_path / "run"),
        max_steps=2,
        per_device_train_batch_size=3,
        learning_rate=1e-3,
        router_mapping={"image": "image", "caption": "text"},
        report_to="none",
        use_cpu=True,
    )
    SentenceTransformerTrainer(model, arguments, pairs, loss=MultipleNegativesRankingLoss(model)).train()
    model.save_pretrained(str(tmp_path / "tuned"))
    encoder = pe.load(f"st:{tmp_path / 'tuned'}", runtime="torch", precision="float32")
    assert abs(encoder.encode(images) - model.encode(images)).max() < TOLERANCE
    assert abs(encoder.encode_texts(texts) - model.encode(texts)).max() < TOLERANCE
    assert abs(encoder.encode(images) - before).max() > 0.01


def test_the_program_on_each_card_runs(tmp_path: Path) -> None:
    assert pe.convert("builtin", tmp_path / "timm", to="timm").model == "builtin"
    assert run_card(tmp_path / "timm")["output"].shape == (1, 256)
    pe.convert("builtin", tmp_path / "st", to="sentence-transformers")
    program = run_card(tmp_path / "st")
    encoder = pe.load("builtin", runtime="torch", precision="float32")
    assert abs(program["images"] - encoder.encode_images([tmp_path / "st" / "image.jpg"])).max() < TOLERANCE
    write_layout_directory(create_model("PE-Core-T16-384"), tmp_path / "open_clip", "open_clip")
    assert run_card(tmp_path / "open_clip")["texts"].shape == (2, 512)


def test_scores_are_of_models_by_name(tmp_path: Path) -> None:
    scores = published_scores("PE-Core-B16-224")
    assert scores is not None and scores["ImageNet-1k, zero-shot top-1, percent (published)"] == 78.4
    without = [name for name in MODELS if not published_scores(name)]
    assert without == ["PE-Lang-G14-448-Tiling", "PE-Lang-L14-448-Tiling", "PE-Core-N16-128", "PE-Spatial-N16-224"]
    (tmp_path / "PE-Core-B16-224").touch()
    assert published_scores(tmp_path / "PE-Core-B16-224") is None
    write_layout_directory(create_model("builtin"), tmp_path / "out", "timm", scores=scores)
    assert (
        "| ImageNet-1k, zero-shot top-1, percent (published) | 78.4 |" in (tmp_path / "out" / "README.md").read_text()
    )


def test_the_licence_is_that_of_weights_by_name(tmp_path: Path) -> None:
    """The weights in a file may be anybody's."""
    pe.convert("builtin", tmp_path / "mine.safetensors")
    for source, tag, licence in (
        ("builtin", "apache-2.0", "Apache-2.0"),
        (tmp_path / "mine.safetensors", "other", "not recorded in their file; that of builtin is Apache-2.0"),
    ):
        pe.convert(source, tmp_path / "timm", to="timm", overwrite=True)
        card = (tmp_path / "timm" / "README.md").read_text()
        assert card.startswith(f"---\nlicense: {tag}\n") and f"Licence of the weights: {licence}.\n" in card
