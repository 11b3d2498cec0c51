"""`pe eval` on encoders: zero-shot classification, retrieval, neighbours, probes, and comparing results."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from perception_encoder.cli import output
from perception_encoder.evaluation import tasks
from tests.cli.evaluate.conftest import COLOURS, read_json
from tests.clips import clip
from tests.evaluation.classification.test_attentive_probe import ColourLayers
from tests.evaluation.colours import ColourEncoder, image_bytes
from tests.models.external.samples import save_transformer

pytestmark = pytest.mark.usefixtures("colour_models")


def test_classification_of_directories(run_pe, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "r.json"
    run = run_pe(
        "eval", "classification", "any", "--data", photos, "--split", "val", "--prompts", "imagenet,name", "-o", out
    )
    assert run.status == output.OK, run.stderr
    assert "mean class accuracy" in run.stdout and "100.0" in run.stdout
    for interval in (metric["interval"] for m in read_json(out)["measurements"] for metric in m["metrics"]):
        assert interval == pytest.approx((0.757, 1.0), abs=1e-3)  # all 12 are right
    assert [(m["transform"], m["prompts"]) for m in read_json(out)["measurements"]] == [
        (transform, prompts) for transform in ("squash", "crop") for prompts in ("imagenet", "name")
    ]


def storing(prompts: list[str], encode):
    """The method, which also stores its texts."""

    def encode_texts(self, texts):
        prompts.extend(texts)
        return encode(self, texts)

    return encode_texts


def test_a_table_of_videos_with_the_templates_of_kinetics(
    run_pe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "A_000001_000011.mp4").write_bytes(clip(10))
    prompts: list[str] = []
    monkeypatch.setattr(ColourEncoder, "encode_texts", storing(prompts, ColourEncoder.encode_texts))
    rows = ["label,youtube_id,time_start,time_end,split", "white (not red),A,1,11,val", "red,gone,0,10,val"]
    (tmp_path / "k.csv").write_text("\n".join(rows), encoding="utf-8")
    options = ("--split", "val", "--prompts", "kinetics", "--transform", "squash", "--frames", "2")
    run = run_pe("eval", "classification", "any", "--data", tmp_path / "k.csv", *options)
    assert run.status == output.SOME_SKIPPED
    assert "skipped gone_000000_000010: no such file" in run.stderr and "1 of 2 inputs skipped" in run.stderr
    assert "kinetics" in run.stdout
    assert "a video of white not red." in prompts and not any("(" in prompt for prompt in prompts)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--split", "test"], "has no split 'test'"),
        (["--split", "val", "--prompts", "x"], "unknown prompts 'x'"),
        (["--split", "val", "--onto", "imagenet"], "needs a mapping"),
    ],
)
def test_bad_options_are_one_line(run_pe, photos: Path, options: list[str], message: str) -> None:
    run = run_pe("eval", "classification", "any", "--data", photos, *options)
    assert run.status == output.ERROR
    assert message in run.stderr and run.stderr.count("\n") == 1


def test_one_class_is_an_error(run_pe, photos: Path) -> None:
    for colour in COLOURS[1:]:
        for path in (photos / "val" / colour).iterdir():
            path.unlink()
    run = run_pe("eval", "classification", "any", "--data", photos, "--split", "val")
    assert run.status == output.ERROR and "photos has only the class 'red'" in run.stderr


def test_retrieval_of_captions(run_pe, tmp_path: Path) -> None:
    for colour in COLOURS:
        (tmp_path / f"{colour}.png").write_bytes(image_bytes(colour))
    captions = {f"{colour}.png": [f"a {colour} cup", colour] for colour in COLOURS}
    (tmp_path / "captions.json").write_text(json.dumps(captions), encoding="utf-8")
    run = run_pe("eval", "retrieval", "any", "--data", tmp_path / "captions.json", "-o", tmp_path / "r.json")
    assert run.status == output.OK, run.stderr
    assert "text to item R@1" in run.stdout and "item to text, dual softmax R@10" in run.stdout
    assert len(read_json(tmp_path / "r.json")["measurements"][0]["scores"]) == 12


def test_neighbours(run_pe, photos: Path) -> None:
    run = run_pe("eval", "knn", "any", "--data", photos, "--split", "val", "--k", "1,5")
    assert run.status == output.OK, run.stderr
    assert "5-NN" in run.stdout and "train 30" in run.stdout


def test_the_model_with_and_without_its_flag(run_pe, photos: Path) -> None:
    options = ("--data", photos, "--split", "val", "--k", "1")
    runs = [run_pe("eval", "knn", *model, *options) for model in (("any",), ("-m", "any"), ("--model", "any"))]
    assert {(run.status, run.stdout) for run in runs} == {(output.OK, runs[0].stdout)}
    for model in ((), ("any", "-m", "any")):
        run = run_pe("eval", "knn", *model, *options)
        assert run.status == output.ERROR and "Usage: pe eval knn [OPTIONS] [-m] MODEL" in run.stderr


def test_neighbours_of_few_images(run_pe, photos: Path) -> None:
    for colour in COLOURS:
        for number in range(1, 10):
            (photos / "train" / colour / f"{number}.png").unlink()
    run = run_pe("eval", "knn", "any", "--data", photos, "--split", "val", "--k", "1")
    assert run.status == output.OK, run.stderr
    assert "train 3" in run.stdout


def test_every_probe_takes_a_vision_transformer_of_transformers(run_pe, photos: Path, tmp_path: Path) -> None:
    save_transformer("ViT", tmp_path / "vit")
    for command in (("knn", "--k", "1", "--pool", "cls"), ("linear", "--layer", "1"), ("attentive", "--epochs", "1")):
        run = run_pe("eval", command[0], f"hf:{tmp_path / 'vit'}", "--data", photos, "--split", "val", *command[1:])
        assert run.status == output.OK, run.stderr
        assert "top-1" in run.stdout and "100.0" in run.stdout


def test_a_linear_probe(run_pe, photos: Path) -> None:
    run = run_pe("eval", "linear", "any", "--data", photos, "--split", "val")
    assert run.status == output.OK, run.stderr
    assert "linear probe" in run.stdout and "train 27" in run.stdout  # three are held out


def test_an_attentive_probe(run_pe, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "load_layers", lambda name, layer, final_norm=False: ColourLayers().at(layer))
    options = ("--split", "val", "--layer", "0", "--epochs", "2")
    run = run_pe("eval", "attentive", "any", "--data", photos, *options)
    assert run.status == output.OK, run.stderr
    assert "attentive probe" in run.stdout and "layer 0" in run.stdout
    run = run_pe("eval", "attentive", "any", "--data", photos, "--split", "val", "--layer", "2")
    assert run.status == output.ERROR and "layer 2 does not exist" in run.stderr


def test_compare_names_the_better_model(run_pe, photos: Path, tmp_path: Path) -> None:
    files = {}
    for name in ("any", "blind"):
        files[name] = tmp_path / f"{name}.json"
        options = ("--split", "val", "--transform", "squash", "-o", files[name])
        assert run_pe("eval", "classification", name, "--data", photos, *options).status == output.OK
    run = run_pe("eval", "compare", *files.values())
    assert run.status == output.OK, run.stderr
    assert run.stdout.splitlines()[0].split("\t")[3:5] == ["colours", "blind"]
    assert run.stdout.count("+66.67") >= 2 and "not significant" not in run.stdout
    run = run_pe("eval", "compare", files["any"], files["any"])
    assert run.stdout.count("0.00 (-22.23 to +22.23)") == run.stdout.count("not significant") == 2  # all 12 agree
    (photos / "val" / "red" / "0.png").unlink()
    run_pe(
        "eval", "classification", "any", "--data", photos, "--split", "val", "--transform", "squash", "-o", files["any"]
    )
    run = run_pe("eval", "compare", *files.values())
    assert run.status == output.ERROR and "not evaluated on the same items" in run.stderr
