"""The options that the commands of `pe video-dataset` share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from perception_encoder.cli.options import argument, option

DATA = "The dataset: a directory of train/*.tar and so on, one tar, or an output of `pe engine run`."
Data = Annotated[Path, argument("DATA", DATA)]
Store = Annotated[Path | None, option("The project's file [default: DATA/annotations.sqlite].", "FILE")]
Features = Annotated[Path, argument("FEATURES", "Directory that `pe video-dataset features` wrote.")]
