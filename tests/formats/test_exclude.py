"""Patterns and `.peignore` files leave files out wherever directories are listed; `git check-ignore` is the oracle."""

from __future__ import annotations

import random
import shutil
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest
from pathspec import GitIgnoreSpec

from perception_encoder.errors import ConfigError
from perception_encoder.formats.exclude import excluded_names, parse_patterns
from perception_encoder.formats.listing import list_items
from tests.data.tars import write_tar

FILES = ("a.jpg", "b.png", "raw/a.jpg", "raw/keep/b.jpg", "sub/a.jpg", "sub/b.png", "sub/deep/a.jpg", "sub/raw/c.jpg")


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in FILES:
        (tmp_path / "d" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "d" / name).write_bytes(b"x")
    monkeypatch.chdir(tmp_path)
    return Path("d")


def names(*paths: str | Path, excluded: tuple[str, ...] = ()) -> list[str]:
    return [item.path.removeprefix("d/") for item in list_items(paths, excluded=excluded)]


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
@pytest.mark.parametrize(
    "ignores",
    [
        {".": "*.png\n"},
        {".": "raw/\n"},
        {".": "/raw\n"},
        {".": "raw/*\n!raw/keep/\n"},
        {".": "raw\n!raw/keep/b.jpg\n"},
        {".": "**/deep/**\n# a comment\n\n\\#x\n"},
        {".": "*.jpg\n", "sub": "!a.jpg\n"},
        {".": "*\n!*.jpg\n"},
        {"sub": "/a.jpg\n", "sub/deep": "!a.jpg\n"},
        {".": "\ufeff*.png\r\nsub/[a-z]*/\r\n"},
    ],
)
def test_peignore_excludes_what_git_ignores(tree: Path, ignores: dict[str, str]) -> None:
    subprocess.run(["git", "init", "-q", tree], check=True)
    for directory, text in ignores.items():
        for name in (".peignore", ".gitignore"):
            (tree / directory / name).write_text(text if name == ".peignore" else text.replace("\r", ""), newline="")
    run = subprocess.run(["git", "-C", tree, "check-ignore", "--no-index", *FILES], capture_output=True, text=True)
    assert names(tree) == [name for name in sorted(FILES) if name not in run.stdout.splitlines()]


@pytest.mark.parametrize(
    "patterns",
    [("raw/", "!raw/keep/b.jpg"), ("raw", "!*.jpg"), ("sub/*", "!sub/deep/"), ("*", "!*/"), ("/*.jpg", "!a.jpg")],
)
def test_searches_exclude_what_listings_do(tree: Path, patterns: tuple[str, ...]) -> None:
    is_excluded = excluded_names(patterns)
    assert names(tree, excluded=patterns) == [name for name in sorted(FILES) if not is_excluded(name)]


def test_the_callers_patterns_come_first_and_explicit_files_stay(tree: Path) -> None:
    (tree / ".peignore").write_text("*.png\n")
    assert names(tree, excluded=("raw/", "!/b.png")) == ["a.jpg", "b.png", "sub/a.jpg", "sub/deep/a.jpg"]
    assert names(tree / "raw/a.jpg", tree / "b.png", excluded=("raw/", "*.png")) == ["raw/a.jpg", "b.png"]
    assert names("d/**/*.jpg", excluded=("raw/", "/sub/a.jpg")) == ["a.jpg", "sub/deep/a.jpg"]
    assert names("d/s*", excluded=("raw",)) == ["sub/a.jpg", "sub/b.png", "sub/deep/a.jpg"]
    assert names(".", excluded=("/d/sub", "raw")) == ["a.jpg"]
    assert names("d/s*", excluded=("sub/deep/", "/sub/a.jpg")) == ["sub/b.png", "sub/raw/c.jpg"]
    left_out: Counter[str] = Counter()
    (tree / "notes.txt").write_text("x")
    (tree / "raw/notes.txt").write_text("x")
    list(list_items([tree], left_out, ["raw"]))
    assert left_out == {".txt": 1}


def test_members_of_a_tar_are_excluded(tree: Path) -> None:
    write_tar(tree / "t.tar", {"a.jpg": b"", "raw/b.jpg": b""})
    assert names(tree / "t.tar", excluded=("raw/",)) == ["t.tar/a.jpg"]
    assert names(tree, excluded=("/raw", "/sub", "/[ab].*", "/t.tar/a.jpg")) == ["t.tar/raw/b.jpg"]


def test_bad_patterns_and_unusable_files_are_one_line(tree: Path) -> None:
    with pytest.raises(ConfigError, match="a pattern is invalid: "):
        names(tree, excluded=("!",))
    with pytest.raises(ConfigError, match=r"a list of patterns: \['raw/'\]"):
        excluded_names("raw/")
    (tree / "sub" / ".peignore").mkdir()
    (tree / "raw" / ".peignore").write_text("a\n!\n")
    (*_, raw, sub) = items = list(list_items([tree]))
    assert [str(item.problem) for item in (raw, sub)][1] == (
        "d/sub: cannot be listed: its .peignore: d/sub/.peignore is not a regular file; remove it"
    )
    assert str(raw.problem).startswith("d/raw: cannot be listed: its .peignore: a pattern is invalid: ")
    assert [item.path for item in items[:-2]] == ["d/a.jpg", "d/b.png"]
    (tree / "raw" / ".peignore").write_bytes(b"\xff*\n")  # not UTF-8
    assert "raw/a.jpg" in names(tree)


@pytest.mark.parametrize(
    ("pattern", "name"),
    [
        ("*a*a*a*a*a*a*a*a*b", "a" * 250),
        ("a/**/a/**/a/**/b", "a/" * 500),
        ("**/a/**/a/**/b/**", "a/" * 500),
        ("*" * 1000, "a" * 250),
        ("?*" * 400 + "b", "a" * 250),
    ],
)
def test_no_pattern_takes_long(pattern: str, name: str) -> None:
    """A stranger's directory may have any `.peignore`."""
    started = time.process_time()
    assert excluded_names([pattern])(name) == (pattern == "*" * 1000)
    assert time.process_time() - started < 2


def test_a_pattern_has_a_maximum_length() -> None:
    with pytest.raises(ConfigError, match="a pattern has 100,000 characters"):
        excluded_names(["*" * 100_000])


def test_several_stars_match_what_pathspec_says() -> None:
    rng = random.Random(0)
    pieces = ["a", "b", "*", "*", "?", "/", "[ab]", "**/", "/**/", "a*", "\\*", "!"]
    for _ in range(1500):
        pattern = "".join(rng.choices(pieces, k=rng.randint(1, 10)))
        try:
            expected = GitIgnoreSpec.from_lines([pattern])
        except ValueError:
            continue
        compiled = parse_patterns([pattern])
        for _ in range(10):
            name = "/".join("".join(rng.choices("aab*", k=rng.randint(1, 5))) for _ in range(rng.randint(1, 6)))
            assert compiled.check_file(name).include == expected.check_file(name).include, (pattern, name)
