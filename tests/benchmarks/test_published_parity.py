"""The comparison with the published code, for which stored outputs stand, on random weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import perception_encoder as pe
from benchmarks import published_parity
from benchmarks.published_parity import COUNT, TEXTS, images, main

REPLAY = """\
import numpy as np, torch
class CLIP:
    image_size = context_length = 8
    def from_config(name, pretrained):
        assert name == "random" and pretrained
        return CLIP()
    def eval(self):
        self.stored = {name: torch.from_numpy(array) for name, array in np.load("stored.npz").items()}
        self.rows = iter(self.stored["images"])
        return self
    def encode_image(self, image, normalize):
        assert image.shape == (1, 3) and normalize
        return next(self.rows)[None]
    def encode_text(self, texts, normalize):
        assert len(texts) == len(self.stored["texts"]) and normalize
        return self.stored["texts"]
"""
TRANSFORMS = """\
import torch
def get_image_transform(size):
    return lambda image: torch.tensor(image.resize((1, 1)).getpixel((0, 0)))
def get_text_tokenizer(length):
    return lambda texts: texts
"""


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights, and outputs of the torch modules on tensors, without the way from files to vectors."""
    pytest.importorskip("skimage")
    torch.manual_seed(0)
    model = pe.create_model("builtin").eval()
    directory = tmp_path_factory.mktemp("weights")
    torch.save(pe.published_state_dict(model), directory / "random.pt")
    transform = pe.image_transform(model)
    with torch.no_grad():
        vectors = torch.cat([model.encode_image(transform(image)[None], normalize=True) for image in images()])
        texts = model.encode_text(pe.tokenizer(model)(TEXTS), normalize=True)
    np.savez(directory / "stored.npz", images=vectors.numpy(), texts=texts.numpy())
    return directory


def test_equal_outputs_pass_and_others_fail(weights: Path, tmp_path: Path) -> None:
    def compare(**arrays: np.ndarray) -> None:
        stored = tmp_path / "stored.npz"
        np.savez(stored, **arrays)
        main([str(weights / "random.pt"), "--stored", str(stored), "-o", str(tmp_path / "parity.json")])

    arrays = dict(np.load(weights / "stored.npz"))
    assert len(arrays["images"]) == len(arrays["texts"]) == COUNT
    compare(**arrays)
    row = json.loads((tmp_path / "parity.json").read_text())
    assert row["images"]["cosine"] > 0.99999 and row["texts"]["difference"] < 1e-4
    for name in arrays:
        with pytest.raises(SystemExit, match="1"):
            compare(**arrays | {name: arrays[name][::-1]})
    with pytest.raises(SystemExit, match="images: the reference has"):
        compare(images=arrays["images"][:, :8], texts=arrays["texts"])


def test_runs_a_checkout(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "core" / "vision_encoder"
    package.mkdir(parents=True)
    (package / "pe.py").write_text(REPLAY)
    (package / "transforms.py").write_text(TRANSFORMS)
    shutil.copy(weights / "stored.npz", tmp_path)
    load = pe.load
    monkeypatch.setattr(published_parity.pe, "load", lambda name, **keywords: load(weights / f"{name}.pt", **keywords))
    main(["random", "--reference", str(tmp_path), "-o", str(tmp_path / "parity.json")])
    assert json.loads((tmp_path / "parity.json").read_text())["images"]["cosine"] > 0.99999
