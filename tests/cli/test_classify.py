"""`pe classify`: what it prints and writes, and how it ends."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import perception_encoder as pe
from perception_encoder.errors import ConfigError
from perception_encoder.evaluation.classification.zero_shot import ensemble, find_templates
from perception_encoder.evaluation.embeddings import Embeddings
from perception_encoder.inference.encoder import Encoder
from tests.clips import clip

LABELS = "cat,dog,red mug,other pet"


def test_files_are_named_with_probabilities(
    run_pe, checkpoint: Path, image_files: list[Path], encoder: Encoder
) -> None:
    run = run_pe("classify", image_files[0].parent, "--labels", LABELS, "--model", checkpoint, "--json", "--top", "4")
    assert run.status == 0, run.stderr
    printed = json.loads(run.stdout)
    assert printed["model"] == "PE-Core-N16-128" and printed["labels"] == LABELS.split(",")
    assert [file["path"] for file in printed["files"]] == list(map(str, image_files))
    texts = ensemble(Embeddings(encoder), LABELS.split(","), find_templates("photo"))
    logits = encoder.model.logit_scale.detach().exp() * torch.from_numpy(encoder.encode_images(image_files) @ texts.T)
    assert pe.classify(image_files[0].parent, LABELS, model=checkpoint, top=4).to_dict() == printed
    for file, expected in zip(printed["files"], logits.softmax(dim=1).tolist(), strict=True):
        assert sum(guess["probability"] for guess in file["labels"]) == pytest.approx(1, abs=1e-4)
        probabilities = {guess["label"]: guess["probability"] for guess in file["labels"]}
        assert list(probabilities.values()) == sorted(probabilities.values(), reverse=True)
        np.testing.assert_allclose([probabilities[label] for label in LABELS.split(",")], expected, atol=0.03)


def test_probabilities_are_the_softmax_that_the_model_was_trained_with(
    encoder: Encoder, image_files: list[Path]
) -> None:
    labels = ["cat", "dog", "red mug"]
    cosines = encoder.encode_images(image_files) @ ensemble(Embeddings(encoder), labels, find_templates("photo")).T
    expected = (encoder.model.logit_scale.detach().exp() * torch.from_numpy(cosines)).softmax(dim=1).numpy()
    for file, row in zip(pe.classify(image_files, labels, model=encoder, top=3), expected, strict=True):
        assert [guess.label for guess in file.labels] == [labels[column] for column in np.argsort(-row)]
        np.testing.assert_allclose([guess.probability for guess in file.labels], np.sort(row)[::-1], rtol=1e-4)


def test_a_table_by_default_and_bad_files_reported(run_pe, checkpoint: Path, image_files: list[Path]) -> None:
    image_files[1].write_bytes(b"no picture")
    (image_files[0].parent / "clip.mp4").write_bytes(clip(20))
    (image_files[0].parent / "labels.txt").write_text("cat\ndog\nred mug\n")
    glob = image_files[0].parent / "0[01].jpg"
    clip_, labels = image_files[0].parent / "clip.mp4", f"@{image_files[0].parent / 'labels.txt'}"
    arguments = ("classify", glob, clip_, "--labels", labels, "--model", checkpoint, "--top", "2")
    run = run_pe(*arguments)
    assert run.status == 0
    assert run_pe(*arguments, "--strict").status == 1
    lines = "".join(run.stdout.split())
    assert "00.jpg" in lines and "clip.mp4" in lines and "01.jpg" not in lines
    assert "01.jpg: is not an image" in run.stderr
    assert run.stderr.endswith("1 of 3 inputs skipped\n")
    missing = run_pe(*arguments, "missing.jpg")
    assert missing.status == 2 and missing.stderr == "error: missing.jpg: no such file or directory\n"
    bad = run_pe("classify", image_files[1], "--labels", labels, "--model", checkpoint)
    assert bad.status == 2 and bad.stdout == "" and "1 of 1 inputs skipped" in bad.stderr


def test_the_call_takes_an_encoder_and_a_list_and_reports_bad_files(encoder: Encoder, image_files: list[Path]) -> None:
    image_files[1].write_bytes(b"no picture")
    found = pe.classify(image_files[:3], ["cat", "dog"], model=encoder, top=1)
    assert [file.path for file in found] == [str(image_files[0]), str(image_files[2])] and len(found[0].labels) == 1
    assert [error.source for error in found.skipped] == [str(image_files[1])]
    (other, *_), *_ = (file.labels for file in pe.classify(image_files[0], "cat,dog", model=encoder, prompts="name"))
    assert other.probability != found[0].labels[0].probability
    with pytest.raises(ConfigError, match="'openai'; choose from"):
        pe.classify(image_files[0], "cat,dog", model=encoder, prompts="openai")
    with pytest.raises(ConfigError, match="no text tower"):
        pe.classify(image_files[0], "cat,dog", model=Encoder.of(encoder.model.visual, "cpu", torch.float32))


def test_mistakes_are_found_before_the_model_is_loaded(run_pe, tmp_path: Path) -> None:
    one = run_pe("classify", tmp_path, "--labels", "cat", "--model", "no-such-model")
    assert one.status == 2 and "at least two labels" in one.stderr
    nothing = run_pe("classify", tmp_path, "--labels", LABELS, "--model", "no-such-model")
    assert nothing.status == 2 and "no images or videos in" in nothing.stderr
