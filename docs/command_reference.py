"""Write docs/cli from the commands themselves: a page for each family, with what `--help-all` shows.

    python docs/command_reference.py [DIRECTORY]

Options that nearly every command has are described once, on the first page.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from perception_encoder.cli.groups import adapt
from perception_encoder.cli.main import COMMANDS, EXIT_STATUS, app

FAMILIES = {
    "search": (
        "Search, classify and embed",
        ("search", "near-duplicates", "index", "serve", "classify", "embed", "words", "demo"),
    ),
    "language": ("Ask and describe", ("ask", "caption")),
    "dense": ("Track, segment, depth and detect", ("track", "segment", "depth", "detect")),
    "models": ("Models, features and export", ("models", "features", "convert", "export")),
    "training": ("Train", ("train", "data")),
    "evaluation": ("Evaluate, and choose a layer", ("eval", "layers")),
    "video": ("Video data", ("engine", "video-dataset", "annotate")),
}
"""The pages by file name: each with its title and its commands."""
SHARED = ("--help", "--help-all", "--json", "--strict", "--overwrite", "--verbose", "--version")
"""Options that are left out: the first page describes them."""
OFTEN = 2
"""Commands of a page that describe an option alike before it is described once for all of them."""
FIRST_PAGE = """\
# The `pe` command

{intro}

These options mean the same in every command that has them:

- `-m, --model MODEL`: a name, an alias, a checkpoint or a run; `pe models` lists the names, and `pe models use NAME`
  sets the default. `[-m] MODEL` in a usage line means that the flag may be left out.
- `--json`: print JSON. Tables in a pipe are tab-separated.
- `--strict`: exit with status 1 if any input was skipped.
- `--overwrite`: replace the output if it exists.
- `--help` shows a command's main options and examples, `--help-all` all of its options, as these pages do.
- `pe -v COMMAND` prints log messages.

Exit status: {status}
{families}
"""


def pages() -> dict[str, str]:
    """Return the content of each page by file name."""
    command = typer.main.get_command(app)
    context = typer.Context(command, info_name="pe")
    adapt(command, context)
    result, listed = {}, []
    for file, (title, names) in FAMILIES.items():
        found = {name: command.get_command(context, name) for name in names}  # type: ignore[attr-defined]
        sections = [text for name, child in found.items() for text in sections_of(child, f"pe {name}", context)]
        result[f"{file}.md"] = page_of(title, sections)
        listed += ["", f"## [{title}]({file}.md)", ""]
        listed += [f"- [`pe {name}`]({file}.md#pe-{name}): {first_line(child)}" for name, child in found.items()]
    covered = {name for _, names in FAMILIES.values() for name in names}
    missing = {name for table in COMMANDS.values() for name in table} - covered
    if missing:
        raise SystemExit(f"add to a family in {__file__}: {', '.join(sorted(missing))}")
    intro = first_line(command)
    status = " ".join(EXIT_STATUS.removeprefix("Exit status: ").split())
    first = FIRST_PAGE.format(intro=" ".join(intro.split()), status=status, families="\n".join(listed))
    return {"README.md": first.rstrip() + "\n", **result}


def page_of(title: str, sections: list[list[str]]) -> str:
    """Return a page: first the options that `OFTEN` of its commands describe alike, then each command."""
    counts = Counter(line for lines in sections for line in lines if line.startswith("- `"))
    often = dict[str, str]()
    for line, count in counts.most_common():
        option = line.partition("`: ")[0].removeprefix("- ").partition(" ")[0].rstrip(",`") + "`"
        if count >= OFTEN and option not in often.values():
            often[line] = option
    text = [f"# {title}", ""]
    if often:
        text += ["Options that several commands on this page share:", "", *often, ""]
    for lines in sections:
        named = ", ".join(dict.fromkeys(often[line] for line in lines if line in often))
        text += "\n".join(line for line in lines if line not in often).rstrip().split("\n")
        text += ["", f"Also: {named}.", ""] if named else [""]
    return "\n".join(text).rstrip() + "\n"


def sections_of(command: Any, name: str, parent: Any) -> Iterator[list[str]]:
    """Yield the lines of a command and of those below it."""
    context = typer.Context(command, info_name=name.rpartition(" ")[2], parent=parent)
    adapt(command, context)
    text, _, examples = (command.help or "").partition("Examples:")
    group = hasattr(command, "list_commands")  # its examples are those of its commands
    lines = [f"## `{name}`", "", *([first_line(command)] if group else text.strip().splitlines()), ""]
    shown = [line.strip() for line in examples.splitlines() if line.strip()]
    if shown and not group:
        lines += ["```", *shown, "```", ""]
    if group:
        yield lines
        for child in command.list_commands(context):
            yield from sections_of(command.get_command(context, child), f"{name} {child}", context)
        return
    lines += [f"Usage: `{name} {' '.join(command.collect_usage_pieces(context))}`", ""]
    main_first = sorted(command.params, key=lambda parameter: getattr(parameter, "hidden", False))
    rows = [row for parameter in main_first if (row := describe(parameter, context))]
    yield [*lines, *rows, ""] if rows else lines


def describe(parameter: Any, context: Any) -> str | None:
    """Return the line of an argument or option; None if it is described on the first page."""
    if set(parameter.opts) & set(SHARED):
        return None
    parameter.hidden = False
    record = parameter.get_help_record(context)
    if record is None:
        return None
    names, text = record
    if "] [" not in names:
        names = re.sub(r"[][]", "", names)
    text = re.sub(r" *\[(?:x[<>]=[^\]]*|required)\]|; x[<>]=[^\]]*|; required", "", " ".join(text.split()))
    return f"- `{names}`: {text}"


def first_line(command: Any) -> str:
    """Return the first sentence of a command's help."""
    return re.sub(r"\s+", " ", (command.help or "").strip().partition("\n\n")[0])


def main(directory: Path) -> None:
    """Write the pages, and remove those of families that are gone."""
    directory.mkdir(exist_ok=True)
    written = pages()
    for path in directory.glob("*.md"):
        if path.name not in written:
            path.unlink()
    for name, text in written.items():
        (directory / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "cli")
