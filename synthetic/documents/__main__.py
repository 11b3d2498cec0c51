"""`python -m synthetic.documents`: draw receipts, forms, tables, charts and signs with questions and answers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from perception_encoder.cli import options, output
from perception_encoder.cli.options import option
from perception_encoder.cli.output import track
from synthetic.command_line import run_command


def documents(
    out: Annotated[Path, options.out_option("Directory of the dataset.", "OUT")],
    count: Annotated[int, option("Number of documents.", least=1)] = 1000,
    seed: Annotated[int, option("Random seed.", least=0)] = 0,
    split: Annotated[str, option("Split: train, val or test.", "NAME")] = "train",
    size: Annotated[int, option("Side of the images in pixels, from 128 to 2048.", "N")] = 448,
    kinds: Annotated[str | None, option("Kinds such as 'receipt,bar chart' [default: all].", "LIST")] = None,
    look: Annotated[str | None, option("clean, noise, rotated, print or photo [default: all].", "NAME")] = None,
    lines: Annotated[int | None, option("Items, fields, rows or categories [default: random].", least=1)] = None,
    text_height: Annotated[float | None, option("Height of capital letters in pixels.", "N")] = None,
    jobs: options.Jobs = None,
) -> None:
    """Draw documents with questions.

    Kinds: receipt, form, table, bar chart, line chart, sign. Writes OUT/SPLIT/images/, OUT/SPLIT/conversations.jsonl
    (LLaVA's format) and OUT/SPLIT/words.jsonl (boxes of words and answers in pixels, and the printed values). The test
    split has layouts, names and fonts that train and val lack. The same seed gives the same documents, with any number
    of processes. An interrupted run resumes when the command is repeated; a larger --count adds documents. Needs the
    dependency group `synthetic`.

    Examples:

        python -m synthetic.documents -o documents --count 20000
        python -m synthetic.documents -o documents --count 2000 --split test
        python -m synthetic.documents -o receipts --kinds receipt --look clean --size 224 --lines 4 --text-height 9
    """
    from synthetic.documents.production import DocumentsConfig, write_documents

    config = DocumentsConfig(
        count=count,
        seed=seed,
        split=split,
        size=size,
        kinds=() if kinds is None else tuple(options.items_of(kinds)),
        look=look,
        lines=lines,
        text_height=text_height,
    )
    written = write_documents(out, config, jobs, track)
    earlier = f", {written.before} of them from an earlier run" if written.before else ""
    output.print_line(f"{written.documents} documents{earlier}: {written.directory}")


if __name__ == "__main__":
    run_command("synthetic.documents", documents)
