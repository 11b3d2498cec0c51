"""`python -m synthetic.furniture`: download models of furniture, for `python -m synthetic.scenes`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from perception_encoder.cli import options, output
from perception_encoder.cli.output import track
from synthetic.command_line import run_command


def furniture(
    out: Annotated[Path, options.out_option("Directory of the datasets.", "OUT"), options.BY_POSITION] = Path(
        "datasets"
    ),
    jobs: options.Jobs = None,
) -> None:
    """Download models of furniture for scenes.

    Writes OUT/scenes/furniture.tar: the textured models of Debian's sweethome3d-furniture, with authors and licences.
    An existing file is left as it is; delete it to make it again. Needs `apt-get` and the dependency group
    `synthetic`. Status 1: some models could not be read; they are listed.

    Examples:

        python -m synthetic.furniture -o ~/datasets
        python -m synthetic.scenes -o scenes --models ~/datasets/scenes/furniture.tar
    """
    from synthetic.scenes.objects.furniture import prepare_furniture

    library = prepare_furniture(out, jobs, track)
    if library.finished_before:
        return output.print_line(f"{library.path} exists; delete it to make it again")
    output.print_line(f"{library.models} models: {library.path}")
    raise typer.Exit(output.report_skipped(library.failures, library.models + len(library.failures)))


if __name__ == "__main__":
    run_command("synthetic.furniture", furniture)
