"""A hook of MkDocs: on the site, links to files outside docs/ lead to the repository, as they do on GitHub."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any


def on_page_markdown(markdown: str, *, page: Any, config: Any, **_: Any) -> str:
    """Replace relative links to files outside docs/ by their address in the repository.

    A heading that repeats another has the anchor `name-1` on GitHub, to which docs/api links, and `name_1` here.
    """
    root = Path(config.config_file_path).parent
    directory = posixpath.join("docs", posixpath.dirname(page.file.src_uri))

    def replace(link: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(directory, link[1]))
        if path.startswith("docs/") or not (root / path).exists():
            return link[0]
        return f"]({config.repo_url}/{'tree' if (root / path).is_dir() else 'blob'}/main/{path}{link[2] or ''})"

    markdown = re.sub(r"(`\]\((?:\w+\.md)?#\w+)-(\d+\))", r"\1_\2", markdown)
    return re.sub(r"\]\((\.\./[^)#\s]+)(#[^)\s]*)?\)", replace, markdown)
