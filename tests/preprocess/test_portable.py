"""The preprocessing of an exported model, used without this package: by tokenizers and transformers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tokenizers
import torch
from PIL import Image

from perception_encoder.preprocess.image import ImageTransform
from perception_encoder.preprocess.portable import write_preprocessing
from perception_encoder.preprocess.tokenizer import Tokenizer

TEXTS = ["a red mug", "  Two   DOGS\n\ton a lawn, isn't it? 12:30 #1!", "", "naïve café 日本語 🐶", "word " * 99]


def test_ids_are_those_of_our_tokenizer(tmp_path: Path) -> None:
    write_preprocessing(tmp_path, (32, 48), 32)
    own = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    ids = torch.tensor([row.ids for row in own.encode_batch(TEXTS)])
    assert torch.equal(ids, Tokenizer(32, warns=False)(TEXTS))


def test_pixels_are_those_of_our_transform(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    write_preprocessing(tmp_path, (32, 48), None)
    assert [path.name for path in tmp_path.iterdir()] == ["preprocessor_config.json"]
    image = Image.effect_noise((100, 70), 90).convert("L")
    theirs = transformers.AutoImageProcessor.from_pretrained(tmp_path)(image, return_tensors="pt")["pixel_values"][0]
    ours = ImageTransform((32, 48))(image)
    assert theirs.shape == ours.shape == (3, 32, 48)
    assert float(np.abs(theirs.numpy() - ours.numpy()).max()) < 0.02
