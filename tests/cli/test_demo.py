"""`pe demo`: real photographs and a video, searched, on a page, and the commands that it ends with."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest

from perception_encoder.inference import samples

pytest.importorskip("skimage")


def test_the_best_hits_are_a_photograph_and_its_moment_of_the_clip(run_pe, terminal, tmp_path: Path) -> None:
    out = tmp_path / "demo"
    run = run_pe("demo", "--out", out)
    assert run.status == 0, run.stderr
    assert run.stdout.startswith("15 images and moments of a video, indexed by builtin\n")
    scenes = [f"{samples.CLIP} 0:{4 * n:02d}–0:{4 * n + 4:02d}" for n in range(len(samples.SCENES))]
    subjects = [
        *zip((f"“{query}”" for query in samples.QUERIES), samples.SCENES, scenes, strict=True),
        (f"like {samples.QUERY}", "motorcycle_left.png", scenes[2]),
    ]
    for query, photo, moment in subjects:
        (row,) = (line for line in run.stdout.splitlines() if line.startswith(query))
        assert row.count("(") == 2 and photo in row and moment in row
    page = (out / "index.html").read_text(encoding="utf-8")
    assert page.count("<section>") == len(subjects) + 1 and page.count("<li class") >= 2 * len(subjects) + 1


def test_words_in_an_image_are_found(run_pe, checkpoint: Path, tmp_path: Path) -> None:
    pytest.importorskip("rapidocr")
    run = run_pe("demo", "--model", checkpoint, "--out", tmp_path / "demo")
    line = '"region-based segmentation" found page.png by words: "Region-based segmentation"'
    assert run.status == 0 and line in run.stdout and "extra" not in run.stdout
    page = (tmp_path / "demo" / "index.html").read_text(encoding="utf-8")
    assert "words: &#34;Region-based segmentation&#34;" in page


def test_without_the_extra_words_a_name_is_found(
    run_pe, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(samples, "can_read_words", lambda: False)
    run = run_pe("demo", "--model", checkpoint, "--out", tmp_path / "demo")
    assert run.status == 0 and '"deep field" found hubble_deep_field.jpg by name' in run.stdout
    assert "perception-encoder[words]" in run.stdout


def test_the_commands_that_it_ends_with_work(
    run_pe, config: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    called = Path("env", "pe")
    monkeypatch.setattr(sys, "argv", [str(called), "demo"])
    monkeypatch.setenv("PATH", str(tmp_path))
    run_pe("demo", "--model", checkpoint)
    run = run_pe("demo")  # over the index of another model
    commands = [shlex.split(line) for line in run.stdout.splitlines()[-3:]]
    assert [command[:2] for command in commands] == [[str(called), name] for name in ("search", "serve", "models")]
    search, serve, models = (command[1:] for command in commands)
    found = run_pe(*search)
    assert found.status == 0 and {"demo/images/clip.mp4", "demo/images/chelsea.png"} <= set(found.stdout.split())
    assert run_pe(*serve, "--help").status == 0 and Path(serve[1]).is_dir()
    assert run_pe(*models, "--help").status == 0
    for directory in ("env", "elsewhere"):
        (tmp_path / directory).mkdir()
        (tmp_path / directory / "pe").write_text("")
        (tmp_path / directory / "pe").chmod(0o755)
    for path, program in (("elsewhere", str(called)), ("env", "pe")):
        monkeypatch.setenv("PATH", str(tmp_path / path))
        assert run_pe("demo").stdout.splitlines()[-1] == f"  {program} models use PE-Core-S16-384"


def test_without_scikit_image_the_extra_is_named(
    run_pe, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "skimage", None)
    run = run_pe("demo", "--model", checkpoint, "--out", tmp_path)
    assert run.status == 2 and "perception-encoder[demo]" in run.stderr


def test_what_cannot_be_shown_is_reported(
    run_pe, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(samples, "write_pans", lambda images, clip: clip.write_bytes(b"no clip"))
    run = run_pe("demo", "--model", checkpoint, "--out", tmp_path / "demo")
    assert run.status == 1 and "clip.mp4: " in run.stderr and "1 of 12 inputs skipped" in run.stderr
