"""Published scores in one command, on stand-ins of the hub's repositories and a built-in model."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest

from benchmarks import published
from benchmarks.published import MARKERS, PAGE, RECORD, main, page_rows, page_tables
from benchmarks.result_pages import with_table
from perception_encoder.datasets.published import DATASETS
from perception_encoder.models.registry import canonical_name
from tests.datasets import stand_ins
from tests.datasets.questions.layouts import TABLES, write_table
from tests.datasets.stand_ins import Hub
from tests.language_models.test_perception_lm import perception_lm
from tests.tiny_language_models import byte_tokenizer


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(published, "PAGE", tmp_path / "page.md")
    monkeypatch.setattr(published, "RECORD", tmp_path / "record.json")
    (tmp_path / "page.md").write_text("\n".join(("# Results", *MARKERS)))
    hub = Hub(tmp_path / "hub", monkeypatch)
    stand_ins.wds(hub.root / DATASETS["imagenetv2"].repository, "webp")
    stand_ins.wds_captions(hub.root / DATASETS["coco"].repository)
    return hub


def run(tmp_path: Path, *arguments: str) -> None:
    main(["builtin", "--out", str(tmp_path / "out"), *arguments])


def test_from_download_to_page(hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tasks = "imagenetv2,coco,pets,imagenet"
    run(tmp_path, "--tasks", tasks, "--precision", "float32,bfloat16")
    printed = capsys.readouterr().out
    assert printed.index("To download:") < printed.index("imagenetv2, float32: evaluated")
    assert "Time to compute: about" in printed and "imagenetv2: 10,000 items, 0.00 GB, licence: MIT" in printed
    assert "pets: skipped: pets could not be downloaded (404" in printed
    assert "imagenet: 50,000 items, not downloaded for you" in printed
    assert "imagenet: skipped: imagenet cannot be downloaded for you" in printed
    summary = json.loads((tmp_path / "out" / "builtin" / "summary.json").read_text())
    rows = {(row["dataset"], row["precision"]): row for row in summary["rows"]}
    assert set(rows) == {(name, kind) for name in ("imagenetv2", "coco") for kind in ("float32", "bfloat16")}
    assert rows["coco", "float32"]["metric"] == published.TEXT_TO_ITEM and rows["imagenetv2", "float32"]["interval"]
    assert json.loads((tmp_path / "record.json").read_text())
    published_part, measured = (tmp_path / "page.md").read_text().split("## Measured")
    assert "| imagenetv2 | top-1 | " in measured and "–" not in published_part

    (tmp_path / "out" / "builtin" / "bfloat16" / "coco.json").unlink()
    hub.downloaded.clear()
    run(tmp_path, "--tasks", tasks, "--precision", "float32,bfloat16")
    printed = capsys.readouterr().out
    assert printed.count(": stored") == 3 and "coco, bfloat16: evaluated" in printed and not hub.downloaded


def test_the_difference_from_a_published_result(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name = canonical_name("builtin")
    assert name is not None
    row = published.Published("imagenetv2", "top-1", "a test", {name: 50.0})
    monkeypatch.setattr(published, "PUBLISHED", (row,))
    run(tmp_path, "--precision", "float32")
    (compared,) = json.loads((tmp_path / "out" / "builtin" / "summary.json").read_text())["rows"]
    assert compared["difference"] == pytest.approx(compared["ours"] - 50)
    assert compared["difference_interval"] == pytest.approx([end - 50 for end in compared["interval"]])
    (header, line) = page_rows([compared])
    assert header[3] == "published" and line[:4] == ("imagenetv2", "top-1", name, "50.0") and line[5] == "–"
    assert line[7].startswith(f"{compared['difference']:+.1f} (") and "a test" in (tmp_path / "page.md").read_text()


def test_a_language_model(hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tmp_path / "Perception-LM-tiny"
    tiny = perception_lm()
    tiny.config.text_config.max_position_embeddings = 4096  # a token a letter, and as many tiles as are published
    tiny.save_pretrained(model)
    byte_tokenizer().save_pretrained(model)
    for name in ("docvqa", "chartqa"):
        path, (row, *_) = TABLES[name]
        rows = [row | {"questionId": str(number)} for number in range(4)]
        write_table(hub.root / DATASETS[name].repository / path, rows)
    precisions = ["float32", "bfloat16", *(["int8"] if find_spec("openvino") else [])]
    arguments = [str(model), "--tasks", "docvqa,chartqa", "--precision", ",".join(precisions)]
    main([*arguments, "--out", str(tmp_path / "out")])
    printed = capsys.readouterr().out
    assert printed.count(": evaluated") == 2 * len(precisions), printed
    rows = {
        (row["dataset"], row["precision"]): row
        for row in json.loads((tmp_path / "out" / model.name / "summary.json").read_text())["rows"]
    }
    assert {rows["docvqa", kind]["metric"] for kind in precisions} == {"ANLS"}
    assert rows["docvqa", "float32"]["n"] == 4 and rows["chartqa", "float32"]["metric"] == "relaxed accuracy"
    assert len((tmp_path / "out" / model.name / "float32" / "docvqa.jsonl").read_text().splitlines()) == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tasks", "imagenet5"], "unknown dataset 'imagenet5'; known: imagenetv2"),
        (["--tasks", "docvqa"], "docvqa is for questions; builtin does classification"),
        (["--tasks", "coco", "--precision", "int4"], "unknown precision 'int4'"),
        (["--tasks", "coco", "--data", "coco=/nowhere"], "give NAME=PATH of a file or directory that exists"),
        (["--tasks", "pets"], "nothing could be evaluated"),
    ],
)
def test_bad_input_is_one_line(arguments: list[str], message: str, hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=message):
        run(tmp_path, *arguments)


def test_the_page_is_that_of_its_record() -> None:
    record = json.loads(RECORD.read_text()) if RECORD.exists() else []
    text = PAGE.read_text(encoding="utf-8")
    assert text == with_table(text, page_tables(record), MARKERS), "run: python -m benchmarks.published"
