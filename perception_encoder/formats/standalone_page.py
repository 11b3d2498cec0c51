"""Web pages that open without a server: head, and templates that escape all text."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import jinja2

_DIRECTORY = files("perception_encoder.formats")


def page_head(title: str, note: str, style: str) -> str:
    """Return the head of a standalone page, with its CSS rules (`style`) after the shared ones."""
    template, shared = ((_DIRECTORY / f"standalone.{kind}").read_text(encoding="utf-8") for kind in ("html", "css"))
    return parse_template(template).render(title=title, note=note, style=shared + style)


@cache
def parse_template(source: str) -> jinja2.Template:
    """Parse a template that escapes all text; control characters become visible escape sequences."""
    import jinja2  # here, for the start of `pe search`

    def plain(value: object) -> object:
        return _printable(value) if type(value) is str else value  # not what is marked as safe

    environment = jinja2.Environment(autoescape=True, trim_blocks=True, keep_trailing_newline=True, finalize=plain)
    return environment.from_string(source)


def _printable(value: str) -> str:
    """Replace control characters and characters that UTF-8 cannot encode by escape sequences."""
    plain = value.encode("utf-8", "backslashreplace").decode()
    return "".join(c if c >= " " or c == "\n" else repr(c)[1:-1] for c in plain)
