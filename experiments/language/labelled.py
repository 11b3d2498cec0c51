"""`python -m experiments.language.labelled`: conversations about labelled photographs and drawings.

Their object, yes or no, which of two, and a short caption: data of the built-in language model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np

from experiments.command_line import run_experiment
from perception_encoder.cli import output
from perception_encoder.cli.options import argument, option, out_option
from perception_encoder.data.pairs import object_name
from perception_encoder.errors import DataError
from perception_encoder.formats.shards import ShardSample, read_shard, shards_below
from perception_encoder.preprocess.conversation import CAPTION_PROMPT
from synthetic.builtin.held_out import NEVER_TRAINED
from synthetic.builtin.rules import style_of, unseen_classes
from synthetic.captions import captions, with_article
from synthetic.shards import read_metadata, write_shard

YES_OR_NO = 3
"""Questions of a conversation with the answer yes or no."""


def write_labelled(directories: Sequence[Path], split: str, out: Path, seed: int = 0) -> int:
    """Write a shard of a split's images with a conversation each; returns how many.

    What the built-in models are never trained on is left out. Raises DataError and OutputError.
    """
    return write_shard(out, _samples(directories, split, np.random.default_rng(seed)))


def _samples(directories: Sequence[Path], split: str, generator: np.random.Generator) -> Iterator[ShardSample]:
    for directory in directories:
        shards = shards_below(directory, split)
        unseen = unseen_classes(directory)
        concepts = sorted({object_name(metadata) for shard in shards for _, metadata in read_metadata(shard)} - unseen)
        if len(concepts) < 2:
            raise DataError(
                f"{directory} has {len(concepts)} labels in the split {split!r}; two are needed to ask which"
            )
        for shard in shards:
            for sample in read_shard(shard):
                if sample.source not in NEVER_TRAINED and sample.label not in unseen:
                    turns = _turns(sample, concepts, generator)
                    metadata = {"source": sample.source, "label": sample.label, "conversations": turns}
                    yield replace(sample, key=f"{sample.source}-{sample.key}", metadata=metadata)


def _turns(sample: ShardSample, concepts: Sequence[str], generator: np.random.Generator) -> list[dict[str, str]]:
    """The question for the label is the first or the last one, so that it cannot always be copied."""
    shown = object_name(sample.metadata)
    style = style_of(sample.source)
    ways = captions(sample.metadata, style=style)
    noun = with_article(shown)

    def other() -> str:
        while (drawn := concepts[int(generator.integers(len(concepts)))]) == shown:
            pass
        return drawn

    naming = [("What is in the image?", noun)]
    others: list[tuple[str, str]] = []
    for _ in range(YES_OR_NO):
        yes = generator.random() < 0.5
        others.append((f"Is there {noun if yes else with_article(other())}?", "yes" if yes else "no"))
    pair = [shown, other()]
    first, second = (with_article(pair[at]) for at in generator.permutation(2))
    others.append((f"Which is it, {first} or {second}?", noun))
    others.append(("Is this a photo or a drawing?", "a drawing" if style.drawn else "a photo"))
    plain = ways["plain"]
    others = [others[at] for at in generator.permutation(len(others))]
    described = [(CAPTION_PROMPT, plain[int(generator.integers(len(plain)))])]
    order = ([*naming, *others], [*others, *naming, *described], [*described, *others])[int(generator.integers(3))]
    turns = [turn for question, answer in order for turn in (("human", question), ("gpt", answer))]
    return [{"from": role, "value": f"<image>\n{text}" if at == 0 else text} for at, (role, text) in enumerate(turns)]


def labelled(
    directories: Annotated[list[Path], argument("DIR...", "Directories of labelled shards.")],
    out: Annotated[Path, out_option("The tar of conversations.")],
    split: Annotated[str, option("Split to read.", "NAME")] = "train",
    seed: Annotated[int, option("Random seed.", least=0)] = 0,
) -> None:
    """Write a tar of images with a conversation each, as `pe train language_…` reads it.

    What the built-in models are never trained on is left out.

    Examples:

        python -m experiments.language.labelled photos -o photographs.tar
        python -m experiments.language.labelled drawings -o drawings.tar
    """
    output.print_line(f"{write_labelled(directories, split, out, seed):,} conversations: {out}")


if __name__ == "__main__":
    run_experiment("language.labelled", labelled)
