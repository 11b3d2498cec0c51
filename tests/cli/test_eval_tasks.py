"""`pe eval classification, retrieval, knn, linear, attentive and compare`: what they print, write and return."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from perception_encoder.cli import output
from perception_encoder.evaluation import transforms
from perception_encoder.inference import open_model
from tests.clips import clip
from tests.evaluation.classification.test_attentive_probe import ColourLayers
from tests.evaluation.colours import ColourEncoder, picture
from tests.models.external.samples import save_transformer

COLOURS = ("red", "green", "blue")


class ColourBlind(ColourEncoder):
    """Takes everything for red."""

    name = "blind"

    def encode_images(self, images, normalize=True):
        return np.tile(np.float32([1, 0, 0]), (len(images), 1))


@pytest.fixture(autouse=True)
def models(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models that see colours, but for "blind"."""

    def load(name: str, given: str = "squash,crop"):
        made = ColourBlind if name == "blind" else ColourEncoder
        return {transform: made() for transform in given.split(",")}, {"weights": name}

    monkeypatch.setattr(transforms, "load_transforms", load)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Folders train and val of three classes."""
    for split, count in (("train", 10), ("val", 4)):
        for colour in COLOURS:
            for number in range(count):
                path = tmp_path / "photos" / split / colour / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(picture(colour, number if split == "train" else 40 + number))
    return tmp_path / "photos"


def written(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def test_classification_of_folders(run_pe, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "r.json"
    run = run_pe(
        "eval", "classification", "any", "--data", photos, "--split", "val", "--prompts", "imagenet,name", "-o", out
    )
    assert run.status == output.OK, run.stderr
    assert "colours, val" in run.stdout and "mean class accuracy" in run.stdout and "100.0" in run.stdout
    assert all(
        metric["interval"] is None for m in written(out)["measurements"] for metric in m["metrics"]
    )  # all are right
    assert [(m["transform"], m["prompts"]) for m in written(out)["measurements"]] == [
        (transform, prompts) for transform in ("squash", "crop") for prompts in ("imagenet", "name")
    ]


def noting(prompts: list[str], encode):
    """The method, which keeps its texts as well."""

    def encode_texts(self, texts):
        prompts.extend(texts)
        return encode(self, texts)

    return encode_texts


def test_a_table_of_videos_with_the_templates_of_kinetics(
    run_pe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "A_000001_000011.mp4").write_bytes(clip(10))
    prompts: list[str] = []
    monkeypatch.setattr(ColourEncoder, "encode_texts", noting(prompts, ColourEncoder.encode_texts))
    rows = ["label,youtube_id,time_start,time_end,split", "white (not red),A,1,11,val", "red,gone,0,10,val"]
    (tmp_path / "k.csv").write_text("\n".join(rows), encoding="utf-8")
    options = ("--split", "val", "--prompts", "kinetics", "--transform", "squash", "--frames", "2")
    run = run_pe("eval", "classification", "any", "--data", tmp_path / "k.csv", *options)
    assert run.status == output.SOME_SKIPPED
    assert "skipped gone_000000_000010: no such file" in run.stderr and "1 of 2 inputs skipped" in run.stderr
    assert "kinetics" in run.stdout
    assert "a video of white not red." in prompts and not any("(" in prompt for prompt in prompts)


def test_retrieval_of_captions(run_pe, tmp_path: Path) -> None:
    for colour in COLOURS:
        (tmp_path / f"{colour}.png").write_bytes(picture(colour))
    captions = {f"{colour}.png": [f"a {colour} cup", colour] for colour in COLOURS}
    (tmp_path / "captions.json").write_text(json.dumps(captions), encoding="utf-8")
    run = run_pe("eval", "retrieval", "any", "--data", tmp_path / "captions.json", "-o", tmp_path / "r.json")
    assert run.status == output.OK, run.stderr
    assert "text to item R@1" in run.stdout and "item to text, dual softmax R@10" in run.stdout
    assert len(written(tmp_path / "r.json")["measurements"][0]["scores"]) == 12
    assert run_pe("eval", "page", tmp_path / "r.json").status == output.OK
    assert "| captions | text to item R@1 | 3 | 33.33 |" in (tmp_path / "r.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("command", "method", "train"),
    [(("knn", "--k", "1,5"), "5-NN", 30), (("linear",), "linear probe", 27)],  # linear holds some out
    ids=["knn", "linear"],
)
def test_probes(run_pe, photos: Path, command: tuple[str, ...], method: str, train: int) -> None:
    run = run_pe("eval", command[0], "any", "--data", photos, "--split", "val", *command[1:])
    assert run.status == output.OK, run.stderr
    assert method in run.stdout and f"train {train}" in run.stdout


def test_a_vision_transformer_of_transformers(run_pe, photos: Path, tmp_path: Path) -> None:
    save_transformer("ViT", tmp_path / "vit")
    for command in (("knn", "--k", "1", "--pool", "cls"), ("linear", "--layer", "1"), ("attentive", "--epochs", "1")):
        run = run_pe("eval", command[0], f"hf:{tmp_path / 'vit'}", "--data", photos, "--split", "val", *command[1:])
        assert run.status == output.OK, run.stderr
        assert "top-1" in run.stdout and "100.0" in run.stdout


def test_neighbours_of_few_pictures(run_pe, photos: Path) -> None:
    for colour in COLOURS:
        for number in range(1, 10):
            (photos / "train" / colour / f"{number}.png").unlink()
    run = run_pe("eval", "knn", "any", "--data", photos, "--split", "val", "--k", "1")
    assert run.status == output.OK, run.stderr
    assert "train 3" in run.stdout


def test_an_attentive_probe(run_pe, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = ColourLayers()
    encoder.device, encoder.about = None, {"weights": "any"}
    monkeypatch.setattr(open_model, "load_layer_encoder", lambda name, final_norm=False: encoder)
    options = ("--split", "val", "--layer", "0", "--epochs", "2", "--lr", "1e-2")
    run = run_pe("eval", "attentive", "any", "--data", photos, *options)
    assert run.status == output.OK, run.stderr
    assert "attentive probe" in run.stdout and "layer 0" in run.stdout
    run = run_pe("eval", "attentive", "any", "--data", photos, "--split", "val", "--layer", "2")
    assert run.status == output.ERROR and "layer 2 does not exist" in run.stderr


def test_compare_says_who_is_better(run_pe, photos: Path, tmp_path: Path) -> None:
    files = {}
    for name in ("any", "blind"):
        files[name] = tmp_path / f"{name}.json"
        options = ("--split", "val", "--transform", "squash", "-o", files[name])
        assert run_pe("eval", "classification", name, "--data", photos, *options).status == output.OK
    run = run_pe("eval", "compare", *files.values())
    assert run.status == output.OK, run.stderr
    assert "colours less blind" in run.stdout and run.stdout.count("+66.7") >= 2 and "not shown" not in run.stdout
    run = run_pe("eval", "compare", files["any"], files["any"])
    assert run.stdout.count("0.0 (0.0 to 0.0)") == run.stdout.count("not shown") == 2
    (photos / "val" / "red" / "0.png").unlink()
    run_pe(
        "eval", "classification", "any", "--data", photos, "--split", "val", "--transform", "squash", "-o", files["any"]
    )
    run = run_pe("eval", "compare", *files.values())
    assert run.status == output.ERROR and "not evaluated on the same items" in run.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--split", "test"], "has no split 'test'"),
        (["--split", "val", "--prompts", "x"], "there are no prompts 'x'"),
        (["--split", "val", "--onto", "imagenet"], "needs a mapping"),
    ],
)
def test_bad_options_are_one_line(run_pe, photos: Path, options: list[str], said: str) -> None:
    run = run_pe("eval", "classification", "any", "--data", photos, *options)
    assert run.status == output.ERROR
    assert said in run.stderr and run.stderr.count("\n") == 1


def test_one_class_is_an_error(run_pe, photos: Path) -> None:
    for colour in COLOURS[1:]:
        for path in (photos / "val" / colour).iterdir():
            path.unlink()
    run = run_pe("eval", "classification", "any", "--data", photos, "--split", "val")
    assert run.status == output.ERROR and "photos has only the class 'red'" in run.stderr
