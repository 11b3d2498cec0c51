"""`pe video-dataset`: the group of commands for datasets of captioned videos."""

from __future__ import annotations

from perception_encoder.cli.groups import lazy_group

COMMANDS = {
    "Selection": {
        "features": "video_dataset.features",
        "score": "video_dataset.score",
        "select": "video_dataset.select",
        "categorise": "video_dataset.categorise",
    },
    "Annotation": {
        "assign": "video_dataset.assign",
        "progress": "video_dataset.progress",
        "export": "video_dataset.export",
        "import": "video_dataset.import_labels",
    },
    "Use": {
        "load": "video_dataset.load",
        "stats": "video_dataset.stats",
        "benchmark": "video_dataset.benchmark",
    },
}

app = lazy_group(COMMANDS)


@app.callback()
def video_dataset() -> None:
    """Make datasets of captioned videos.

    They have the layout of the PE Video Dataset: tars of KEY.mp4 and KEY.json in train/, test/ and extended/.
    `pe annotate` opens the page on which people refine the captions.

    Examples:

        pe video-dataset features clips -o features
        pe video-dataset assign clips --people anna,ben
        pe video-dataset progress clips
        pe video-dataset export clips -o refined
        pe video-dataset benchmark PE-Video -m PE-Core-L14-336
    """
