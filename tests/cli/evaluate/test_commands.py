"""The commands of `pe eval` on encoders and layers: scores printed and written, errors in one line, and comparisons."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from perception_encoder.cli import output
from perception_encoder.formats.shards import write_members
from tests.cli.evaluate.conftest import COLOURS, read_json
from tests.clips import clip
from tests.datasets.drawn import stored, write_instances, write_masks, write_yolo
from tests.evaluation.colours import ColourTowers, image_bytes
from tests.evaluation.layers import discs, png, write_video

pytestmark = pytest.mark.usefixtures("colour_models", "colour_layers")


def test_classification_of_directories(run_pe, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "r.json"
    options = ("--data", photos, "--split", "val", "--prompts", "imagenet,name", "-o", out)
    run = run_pe("eval", "classification", "any", *options)
    assert run.status == output.OK, run.stderr
    assert "mean class accuracy" in run.stdout and "100.0" in run.stdout
    scores = read_json(out)["scores"]
    for score in scores:
        assert score["interval"] == pytest.approx((0.757, 1.0), abs=1e-3)  # all 12 are right
    assert [(score["transform"], score["prompts"]) for score in scores[::2]] == [
        (transform, prompts) for transform in ("squash", "crop") for prompts in ("imagenet", "name")
    ]


def test_a_table_of_videos_with_the_templates_of_kinetics(
    run_pe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "A_000001_000011.mp4").write_bytes(clip(10))
    prompts: list[str] = []
    embed = ColourTowers.texts
    monkeypatch.setattr(
        ColourTowers, "texts", lambda self, texts, role=None: prompts.extend(texts) or embed(self, texts)
    )
    rows = ["label,youtube_id,time_start,time_end,split", "white (not red),A,1,11,val", "red,gone,0,10,val"]
    (tmp_path / "k.csv").write_text("\n".join(rows), encoding="utf-8")
    options = ("--split", "val", "--prompts", "kinetics", "--transform", "squash", "--frames", "2")
    run = run_pe("eval", "classification", "any", "--data", tmp_path / "k.csv", *options)
    assert run.status == output.SOME_SKIPPED
    assert "skipped gone_000000_000010: no such file" in run.stderr and "1 of 2 inputs skipped" in run.stderr
    assert "kinetics" in run.stdout
    assert "a video of white not red." in prompts and not any("(" in prompt for prompt in prompts)


@pytest.mark.parametrize(
    ("task", "options", "message"),
    [
        ("classification", ["--split", "test"], "has no split 'test'"),
        ("classification", ["--split", "val", "--prompts", "x"], "unknown prompts 'x'"),
        ("classification", ["--split", "val", "--onto", "imagenet"], "needs a mapping"),
        ("attentive", ["--split", "val", "--layer", "7"], "layer 7 does not exist; colours has layers 0 to 2"),
        ("tracking", [], "no JPEGImages"),
        ("depth", [], "has no depth file"),
        ("segmentation", [], "has no masks/"),
        ("detection", [], "no annotations/instances_val2017.json"),
        ("depth", ["--size", "big"], "--size is 'big'"),
    ],
)
def test_errors_are_one_line(run_pe, photos: Path, task: str, options: list[str], message: str) -> None:
    (photos / "nothing").mkdir()
    run = run_pe("eval", task, "any", "--data", photos if "--split" in options else photos / "nothing", *options)
    assert run.status == output.ERROR and message in run.stderr and run.stderr.count("\n") == 1


def test_retrieval_of_captions(run_pe, tmp_path: Path) -> None:
    for colour in COLOURS:
        (tmp_path / f"{colour}.png").write_bytes(image_bytes(colour))
    captions = {f"{colour}.png": [f"a {colour} cup", colour] for colour in COLOURS}
    (tmp_path / "captions.json").write_text(json.dumps(captions), encoding="utf-8")
    run = run_pe("eval", "retrieval", "any", "--data", tmp_path / "captions.json", "-o", tmp_path / "r.json")
    assert run.status == output.OK, run.stderr
    assert "text to item R@1" in run.stdout and "item to text, dual softmax R@10" in run.stdout
    assert len(read_json(tmp_path / "r.json")["scores"]) == 24  # under two transforms


@pytest.mark.parametrize(
    ("task", "options", "said"),
    [
        ("knn", ["--k", "1,5"], ["5-NN", "train 30"]),
        ("linear", [], ["linear probe", "train 27"]),  # three are held out
        ("attentive", ["--layer", "0", "--epochs", "2"], ["attentive probe", "layer 0"]),
    ],
)
def test_probes(run_pe, photos: Path, task: str, options: list[str], said: list[str]) -> None:
    run = run_pe("eval", task, "any", "--data", photos, "--split", "val", *options)
    assert run.status == output.OK, run.stderr
    assert all(text in run.stdout for text in ("top-1", *said))


def test_the_model_with_and_without_its_flag(run_pe, photos: Path) -> None:
    options = ("--data", photos, "--split", "val", "--k", "1")
    runs = [run_pe("eval", "knn", *model, *options) for model in (("any",), ("-m", "any"), ("--model", "any"))]
    assert {(run.status, run.stdout) for run in runs} == {(output.OK, runs[0].stdout)}
    for model in ((), ("any", "-m", "any")):
        run = run_pe("eval", "knn", *model, *options)
        assert run.status == output.ERROR and "Usage: pe eval knn [OPTIONS] [-m] MODEL" in run.stderr


def write_tum(directory: Path) -> Path:
    parts = ("jpg", png(np.zeros((24, 32, 3), np.uint8))), ("depth.png", stored(np.full((24, 32), 10.0)))
    write_members(directory / "tum.tar", [(f"{n}.{kind}", content) for n in range(5) for kind, content in parts])
    return directory / "tum.tar"


def write_broken_masks(directory: Path) -> Path:
    write_masks(directory, "train", 6, 0)
    write_masks(directory, "test", 3, 1, cut=0)
    return directory


COUNTS = {"train": 2, "test": 1}
HEAD = ["--channels", "8", "--epochs", "1", "--head-seeds", "2"]
AGNOSTIC = [*HEAD, "--class-agnostic"]


@pytest.mark.parametrize(
    ("task", "write", "options", "said"),
    [
        ("segmentation", write_broken_masks, ["--size", "24x32", "--epochs", "2"], "mIoU"),
        ("detection", lambda path: write_instances(path, COUNTS), HEAD, "mask AP50"),
        ("detection", lambda path: write_yolo(path, COUNTS), AGNOSTIC, "box AP50"),
        ("tracking", lambda path: write_video(path / "a.tar", *discs(4)), ["--short-side", "48"], "short side 48"),
        ("depth", write_tum, [*HEAD, "--per-metre", "5000"], "head seeds 2"),
    ],
)
def test_dense_tasks(
    run_pe, tmp_path: Path, task: str, write: Callable[[Path], Path], options: list[str], said: str
) -> None:
    if task == "detection":
        pytest.importorskip("torchvision")
    run = run_pe("eval", task, "any", "--data", write(tmp_path), "--layer", "0", *options)
    assert said in run.stdout and "layer 0" in run.stdout, run.stderr
    assert ("mask AP50" in run.stdout) == (said == "mask AP50")
    assert run.status == (output.SOME_SKIPPED if task == "segmentation" else output.OK)
    assert ("skipped test-0" in run.stderr) == (task == "segmentation")


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
