"""A model of timm or open_clip is evaluated by the same code, through a few lines around it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from perception_encoder.datasets.labelled import load_labelled
from perception_encoder.evaluation.classification.zero_shot import PROMPTS, ensemble
from perception_encoder.evaluation.embeddings import Embeddings
from synthetic.suite import Suite
from tests.evaluation.colours import write_colours

LABELS = ["red", "green", "blue"] * 4


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for split in ("train", "val", "test"):
        write_colours(tmp_path / f"{split}.tar", "toys", LABELS)
    return tmp_path


class PlainOpenClipEncoder:
    """An open_clip model with its own transform and tokenizer."""

    name = "tiny"

    def __init__(self) -> None:
        open_clip = pytest.importorskip("open_clip")
        vision = {"image_size": 32, "patch_size": 16, "width": 32, "layers": 1, "head_width": 16}
        text = {"context_length": 16, "width": 16, "layers": 1, "heads": 2}
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.model = open_clip.CLIP(embed_dim=16, vision_cfg=vision, text_cfg=text).eval()
        self.transform = open_clip.image_transform(32, is_train=False)
        self.tokenize = open_clip.SimpleTokenizer(context_length=16)

    @torch.inference_mode()
    def encode_images(self, images: Sequence[Image.Image], normalize: bool = True) -> np.ndarray:
        batch = torch.stack([self.transform(image) for image in images])
        return self.model.encode_image(batch, normalize=True).numpy()

    @torch.inference_mode()
    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        return self.model.encode_text(self.tokenize(list(texts)), normalize=True).numpy()


def test_an_open_clip_model_is_measured_as_open_clip_does(photos: Path) -> None:
    encoder = PlainOpenClipEncoder()
    suite = Suite({"crop": encoder}, ["imagenet"])
    suite.classify(photos)
    zero_shot, top1, probe, _ = suite.scores
    assert suite.result("test", {}).model == "tiny"
    assert (zero_shot.transform, zero_shot.n, probe.n) == ("crop", 12, 12)

    from open_clip import OPENAI_IMAGENET_TEMPLATES, build_zero_shot_classifier

    task = load_labelled(photos, "test")["toys"]
    oracle = build_zero_shot_classifier(encoder.model, encoder.tokenize, task.classes, OPENAI_IMAGENET_TEMPLATES)
    ours = ensemble(Embeddings(encoder), task.classes, PROMPTS["imagenet"])
    np.testing.assert_allclose(ours.T, oracle.numpy(), atol=1e-6)
    predicted = (torch.from_numpy(Embeddings(encoder).images(task).vectors) @ oracle).argmax(dim=1)
    assert top1.value == np.mean([task.classes[i] for i in predicted] == np.array(task.labels))
