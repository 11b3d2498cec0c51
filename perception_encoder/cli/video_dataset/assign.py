"""`pe video-dataset assign`: deal the videos of an annotation project to people."""

from __future__ import annotations

from typing import Annotated

from perception_encoder.cli import output
from perception_encoder.cli.options import items_of, option
from perception_encoder.cli.progress import track
from perception_encoder.cli.video_dataset.options import Data, Store


def assign(
    data: Data,
    people: Annotated[str, option("Names, separated by commas.", "NAMES")],
    store: Store = None,
) -> None:
    """Deal videos to annotators.

    Each video that nobody has begun goes to one of them, in turn, and one that needs two annotations to two. Only they
    are offered it in `pe annotate`. Without assignments everyone gets the next free video. Run it again to deal the
    rest anew.

    Examples:

        pe video-dataset assign clips --people anna,ben
    """
    from perception_encoder.video_dataset.annotation.project import AnnotationProject

    project = AnnotationProject(data, store)
    project.update(track)
    output.print_table(("name", "videos"), project.assign([name for name in items_of(people) if name]).items())
    project.close()
