"""`pe eval classification`: images in directories, videos in a table, and one-line errors."""

from __future__ import annotations

from pathlib import Path

import pytest

from perception_encoder.cli import output
from tests.cli.evaluate.conftest import COLOURS, read_json
from tests.clips import clip
from tests.evaluation.colours import ColourEncoder

pytestmark = pytest.mark.usefixtures("colour_models")


def test_classification_of_directories(run_pe, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "r.json"
    run = run_pe(
        "eval", "classification", "any", "--data", photos, "--split", "val", "--prompts", "imagenet,name", "-o", out
    )
    assert run.status == output.OK, run.stderr
    assert "mean class accuracy" in run.stdout and "100.0" in run.stdout
    intervals = {metric["interval"] for m in read_json(out)["measurements"] for metric in m["metrics"]}
    assert intervals == {None}  # all are right
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
