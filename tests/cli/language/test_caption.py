"""`pe caption`: captions on the terminal and in files, resumed runs, bad files."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from perception_encoder.cli import output
from perception_encoder.conversation import assistant as assistants
from perception_encoder.language_models.language_model import LanguageModel
from tests.video_data_engine import servers


@pytest.fixture
def run_caption(run_pe, language_run: Path):
    """Run `pe caption` with the tiny model, captions that have a letter, and in float32, alike in any batch."""
    return lambda *arguments: run_pe(
        "caption", "-m", language_run, "--precision", "float32", "--max-tokens", "24", *arguments
    )


def test_a_line_for_each_file(run_caption, language_run: Path, media: Path) -> None:
    run = run_caption(media)
    assert (run.status, run.stderr) == (output.OK, "")
    lines = [line.split("\t") for line in run.stdout.splitlines()]
    assert [Path(path).name for path, _ in lines] == ["0.png", "1.png", "clip.mp4"]
    assert lines[0][1] != lines[1][1]
    rows = json.loads(run_caption(media, "--json", "--batch-size", "2").stdout)
    assert [[row["id"], output.printable(row["caption"])] for row in rows] == lines
    assert {row["model"] for row in rows} == {language_run.name} and {row["prompt"] for row in rows} == {
        "Provide a one-sentence caption for the provided image."
    }
    other = run_caption(media / "0.png", media / "report.pdf", "--prompt", "List the objects.", "--json")
    assert [row["prompt"] for row in json.loads(other.stdout)] == ["List the objects."] * 2


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_a_run_is_resumed_and_done_once(
    run_caption, language_run: Path, media: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    out = tmp_path / f"captions.{suffix}"
    generate, calls = LanguageModel.generate, []

    def stop(self, conversations, sampling=None):
        calls.append(len(conversations))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return generate(self, conversations, sampling)

    with monkeypatch.context() as patch:
        patch.setattr(LanguageModel, "generate", stop)
        run = run_caption(media, "-o", out, "--batch-size", "1")
    assert run.status == output.INTERRUPTED
    assert run.stderr == f"warning: stopped; 1 new captions are saved in {out}: rerun to resume\n"
    run = run_caption(media, "-o", out)
    assert run.stdout == f"3 captions in {out}, 2 of them new\n"
    assert [path.name for path in tmp_path.iterdir() if path != media] == [out.name]
    rows = (
        pq.read_table(out).to_pylist() if suffix == "parquet" else list(map(json.loads, out.read_text().splitlines()))
    )
    assert all(row["digest"] for row in rows)
    assert [{**row, "digest": ""} for row in rows] == json.loads(run_caption(media, "--json").stdout)
    assert run_caption(media, "-o", out).stdout == f"3 captions in {out}, 0 of them new\n"
    run = run_caption(media, "-o", out, "--prompt", "Which?")
    assert run.status == output.ERROR and "was made with prompt" in run.stderr


def test_bad_files_are_skipped_and_listed(run_caption, media: Path, tmp_path: Path) -> None:
    (media / "1.png").write_bytes(b"")
    run = run_caption(media, "-o", tmp_path / "out.jsonl")
    assert run.status == output.OK
    assert "1.png: is empty" in run.stderr and run.stderr.endswith("warning: 1 of 3 inputs skipped\n")
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 2
    assert run_caption(media, "--strict").status == output.SOME_SKIPPED
    assert run_caption(media / "1.png").status == output.ERROR
    table = tmp_path / "texts.csv"
    table.write_text("text\na dog\n")
    assert "is a text, not a file" in run_caption(table).stderr


def test_a_conversation_that_does_not_fit_leaves_the_others(run_caption, media: Path) -> None:
    run = run_caption(media, "--frames", "60", "--tiles", "0", "--max-tokens", "300")
    assert [Path(line.split("\t")[0]).name for line in run.stdout.splitlines()] == ["0.png", "1.png"]
    assert "clip.mp4: 240 image tokens and 300 for the answer do not fit the context of 512" in run.stderr


def test_an_empty_answer_of_an_endpoint_is_tried_again_reported_and_not_stored(
    run_pe, media: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openai")
    pauses: list[float] = []
    monkeypatch.setattr(assistants, "time", SimpleNamespace(sleep=pauses.append))
    out = tmp_path / "out.jsonl"
    images = [media / "0.png", media / "1.png"]
    answered = [servers.empty, servers.well, servers.empty, servers.whole(""), servers.empty, servers.well]
    with servers.endpoint(*answered) as (address, requests):
        arguments = ("caption", *images, "-m", f"{address}#m", "-o", out, "--batch-size", "1")
        run = run_pe(*arguments, "--strict")
        assert run.status == output.SOME_SKIPPED and "answered without a word" in run.stderr
        assert [Path(json.loads(line)["path"]).name for line in out.read_text().splitlines()] == ["0.png"]
        assert len(requests) == 5 and pauses == [1.0, 1.0, 2.0]
        assert run_pe(*arguments).stdout == f"2 captions in {out}, 1 of them new\n"
    with servers.endpoint(servers.failing(500)) as (address, _):
        run = run_pe("caption", *images, "-m", f"{address}#m", "-o", tmp_path / "none.jsonl")
    assert run.status == output.ERROR and "Error code: 500" in run.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["empty"], "no images or videos in empty"),
        (["gone.png"], "gone.png: no such file or directory"),
        (["0.png", "-o", "out.csv"], "out.csv must end in .jsonl or .parquet"),
        (
            ["0.png", "-o", "other.jsonl"],
            "other.jsonl:1 is damaged: name is unknown; known: id, path, start, end, caption, finished, model, prompt, "
            "digest; choose another name, or remove it",
        ),
        (
            ["0.png", "-o", "other.parquet"],
            "other.parquet is damaged (name is unknown; known: id, path, start, end, caption, finished, model, prompt, "
            "digest); choose another name, or remove it",
        ),
    ],
)
def test_what_cannot_be_done_is_one_clear_error(
    run_caption, media: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(media)
    Path("empty").mkdir()
    Path("other.jsonl").write_text('{"name": "x"}\n')
    pq.write_table(pa.table({"name": ["x"]}), "other.parquet")
    run = run_caption(*arguments)
    assert (run.status, run.stdout) == (output.ERROR, "")
    assert run.stderr == f"error: {message}\n"
