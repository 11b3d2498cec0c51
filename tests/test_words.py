"""Whatever a person reads is written in the field's words: the table "Words" of the design, as patterns.

That is help texts, documents, docstrings, comments, messages and the page in the browser; and names of variables. An
exception names a file, and the reason. One that is not needed any more is an error, so the lists only shrink.
"""

from __future__ import annotations

import ast
import re
import tokenize
from collections.abc import Iterator
from functools import cache
from io import StringIO
from pathlib import Path
from tokenize import COMMENT

import pytest

from tests.cli.test_groups import COMMANDS

ROOT = Path(__file__).parent.parent

WORDS = {
    r"\bpictur(?:es?|ed)\b": "image",
    r"\bthings?\b": "object, class or instance",
    r"\bfolders?\b": "directory",
    r"\bkept\b": "cached, stored or precomputed",
    r"\bplaces?\b": "path, dataset or directory",
    r"\bfigures?\b(?! \d)": "score, result or metric (a plot or `Figure 3` may stay)",
    r"\b(?:the|a|its|all|no|seven) marks?\b(?! of)|\bmarks? set\b|\bmarks are\b": "target",
    r"\bas (?:it|they) comes?\b": "default",
    r"\bwhere there (?:is|are) (?:none|no|not|one)\b|(?<!if )\bthere (?:is|are) (?:none|not)\b": "if … not, without",
    r"(?<!there )\b(?:is|are) no (?!longer\b|more\b|less\b|other\b|better\b)[a-z]": "is not a, unsupported, missing",
    r"\bwhom\b": "a shorter sentence",
    r"\b(?:patch|patches|layers?|models?) (?:asks?|asked)\b": "evaluate, attend",
    r"\bask(?:s|ed|ing)? (?:every |each |all |a |the )?(?:layers?|models?|patch|patches|tasks?)\b": "evaluate, attend",
    r"\bwhat (?:is|was|are|were) (?:asked|measured|kept|shown)\b": "the noun: task, metric, cache, output",
    r"\bmeasur(?:es?|ed|ing) (?:a|the|each|every) (?:task|model|layer)s?\b|\bjudg(?:es?|ed|ing)\b": "evaluate, score",
    r"\bwhat \w+ (?:is|are) inside\b|\bvectors? of (?:a thing|things)\b": "embedding or feature",
}
"""What not to write, and what to write instead."""
ORDINARY = r"\b(?:in|takes?|taking) (?:(?:its|their) )?places?\b|\bdecimal places?\b|\bwell-kept\b"
"""Phrases in which such a word has another sense."""

EXCEPTIONS = {
    "benchmarks/results.py": ("as it comes|foreign things", "it lists the words of earlier results"),
    "docs/scenes.md": ("how many things", "it quotes a question"),
    "perception_encoder/data/captions.py": ("a picture of", "a caption for training"),
    "perception_encoder/evaluation/feature_cache.py": ("kept as", "a key of features that are cached already"),
    "perception_encoder/pretraining/builtin/rules.py": ("a picture of", "a caption for training"),
    "perception_encoder/scenes/language/narration.py": ("the picture shows|how many things", "captions and questions"),
    "perception_encoder/scenes/language/phrases.py": ("a picture of|the picture shows", "captions"),
    "perception_encoder/scenes/language/questions.py": ("how many things|part of the picture", "questions"),
}
"""Phrases, as patterns, that a file may use, with the reason."""

NAMES = re.compile(
    r"(?:asked|found|given|kept|places?|said|shown|taken|told|wanted|written)|(?:.*_)?(?:folder|picture|thing)s?(?:_.*)?",
    flags=re.IGNORECASE,
)
"""What not to call a variable, parameter, function or class: a participle, or a word of the table."""
NAMED: dict[str, str] = {
    "perception_encoder/cli/data/documents.py": "written",
    "perception_encoder/documents/document.py": "given",
    "perception_encoder/documents/layouts/bars.py": "asked place",
    "perception_encoder/documents/layouts/charts.py": "asked",
    "perception_encoder/documents/layouts/curves.py": "asked place",
    "perception_encoder/documents/layouts/forms.py": "_place asked",
    "perception_encoder/documents/layouts/receipts.py": "asked",
    "perception_encoder/documents/layouts/signs.py": "asked",
    "perception_encoder/documents/layouts/tables.py": "asked",
    "perception_encoder/pretraining/builtin/prepare.py": "written",
}
"""Files that still define such names, with the names; a line that is not needed any more may go."""

SUFFIXES = (".html", ".js", ".md", ".py")
DIRECTORIES = ("perception_encoder", "experiments", "benchmarks", "examples", "docs", ".github")
FILES = [path for name in DIRECTORIES for path in (ROOT / name).rglob("*") if path.suffix in SUFFIXES]
FILES += ROOT.glob("*.md")


def misused(text: str) -> list[str]:
    """Return what should be written in other words, each with its surroundings and the better word."""
    text = re.sub(ORDINARY, "", " ".join(text.split()))
    return [
        f"…{text[max(0, match.start() - 30) : match.end() + 20]}… → {better}"
        for pattern, better in WORDS.items()
        for match in re.finditer(pattern, text, flags=re.IGNORECASE)
    ]


def texts(source: str) -> Iterator[str]:
    """Yield the comments of a module and its strings of several words: docstrings, messages, texts of pages."""
    yield from (token.string for token in tokenize.generate_tokens(StringIO(source).readline) if token.type == COMMENT)
    parts: set[ast.expr] = set()
    for node in ast.walk(ast.parse(source)):  # an f-string comes before its parts
        text = None
        if isinstance(node, ast.JoinedStr):
            parts.update(node.values)
            text = "".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in parts:
            text = node.value
        if text and " " in text.strip():
            yield text


def prose(text: str) -> str:
    """Return a document without what is typed: code blocks, code spans and addresses of links."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"`[^`]*`|\]\([^)]*\)|<!--.*?-->", " ", text)


def rendered(template: str) -> str:
    """Return a page or script without what fills it in, and without the tags of figures."""
    return re.sub(r"\{\{.*?\}\}|\{%.*?%\}|\$\{.*?\}|</?fig[^>]*>", " ", template)


def read(path: Path) -> list[str]:
    """Return the texts of a file."""
    source = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        return [prose(text) for text in texts(source)]
    return [prose(source) if path.suffix == ".md" else rendered(source)]


def names(path: Path) -> Iterator[str]:
    """Yield the variables, parameters, functions and classes that a module defines."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node.name


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@cache
def problems() -> dict[str, list[str]]:
    """Return what should be written in other words, by file."""
    hits = {}
    for path in FILES:
        phrases, _ = EXCEPTIONS.get(relative(path), ("(?!)", ""))
        hits[relative(path)] = [hit for text in read(path) for hit in misused(re.sub(f"(?i){phrases}", "", text))]
    return hits


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_help_texts(words: tuple[str, ...]) -> None:
    command = COMMANDS[words]
    texts = [command.help, *(getattr(parameter, "help", None) or "" for parameter in command.params)]
    assert [hit for text in texts for hit in misused(prose(text))] == []


@pytest.mark.parametrize("area", sorted({relative(path.parent) for path in FILES}))
def test_documents_and_sources(area: str) -> None:
    own = {name: hits for name, hits in problems().items() if relative((ROOT / name).parent) == area}
    assert own and {name: hits for name, hits in own.items() if hits} == {}


@pytest.mark.parametrize("area", sorted({relative(path.parent) for path in FILES if path.suffix == ".py"}))
def test_names(area: str) -> None:
    modules = [path for path in FILES if path.suffix == ".py" and relative(path.parent) == area]
    for path in modules:
        wrong = {name for name in names(path) if NAMES.fullmatch(name.strip("_"))}
        assert wrong <= set(NAMED.get(relative(path), "").split()), path


def test_the_check_of_names_sees_each_kind(tmp_path: Path) -> None:
    source = "FOLDER = 1\ndef folders_of(given, *, place): [found for found in ()]\nclass Pictures: wanted: int\n"
    (tmp_path / "a.py").write_text(source + "def forgiven(place_holder): replaces = anything = given.kept\n")
    wrong = [name for name in names(tmp_path / "a.py") if NAMES.fullmatch(name)]
    assert sorted(wrong) == ["FOLDER", "Pictures", "folders_of", "found", "given", "place", "wanted"]


@pytest.mark.parametrize("exception", EXCEPTIONS)
def test_exceptions_have_a_reason_and_are_needed(exception: str) -> None:
    phrases, reason = EXCEPTIONS[exception]
    texts_of_file = read(ROOT / exception)
    assert reason
    for phrase in phrases.split("|"):
        assert any(re.search(phrase, text, re.IGNORECASE) for text in texts_of_file)
        assert misused(phrase)


def test_every_kind_of_text_is_read() -> None:
    source = '"""A thing."""\ndef _f(x):  # a picture\n    raise E(f"{x} is no folder")\nlog("kept " "here", "kept")\n'
    assert sorted(texts(source)) == ["# a picture", "A thing.", "kept here", "… is no folder"]
    files = {"MODEL_CARD.md", "page.html", "query.js", "oracles.md", "calibration.py", "CHANGELOG.md"}
    assert files <= {path.name for path in FILES}
    assert len(misused(rendered('<figure title="{{ folder }}">No folder: ${folder}</figure>'))) == 1


@pytest.mark.parametrize(
    "text",
    [
        "Draw a picture's features",
        "the like of these things",
        "a folder of images",
        "features are kept",
        "the place of the data",
        "its figures are",
        "the seven marks set for it",
        "the dtype as it comes",
        "classes, where there are none",
        "text that there is not",
        "x is no folder",
        "whom a patch attends to",
        "earlier frames that a patch asks",
        "Ask every layer of a model which task it serves",
        "what is measured: a directory",
        "measure a model",
    ],
)
def test_the_patterns_see_each_word(text: str) -> None:
    assert misused(text)


@pytest.mark.parametrize(
    "text",
    [
        "something, anything and everything",
        "in place of the mean; sorting takes place in memory; others take their places",
        "three decimal places",
        "Figure 8 and figures 9 and 11",
        "there is no global state; it is no longer needed",
        "ask for help; an error asks for the extra",
        "a question mark; mark them as done",
        "it is measured in metres",
        "imagine a keeper of markers; None if there are none",
    ],
)
def test_the_patterns_leave_ordinary_english(text: str) -> None:
    assert misused(text) == []
