"""The options that the commands of `pe video-dataset` share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from perception_encoder.cli.options import argument, option

Data = Annotated[Path, argument("DATA", "The dataset: a directory of train/*.tar and so on, or one tar.")]
Store = Annotated[Path | None, option("The project's file [default: DATA/annotations.sqlite].", "FILE")]
Features = Annotated[Path, argument("FEATURES", "Directory that `pe video-dataset features` wrote.")]
