"""`pe data masks`: cache a mask teacher's output for a spatial alignment."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from perception_encoder.cli import options, output
from perception_encoder.cli.options import option
from perception_encoder.cli.progress import track


def masks(
    data: Annotated[list[Path], option("Images: a directory, or one of tars; repeat for more.", "PATH")],
    out: Annotated[Path, options.out_option("Cache, a file that ends in .sqlite.")],
    recipe: Annotated[str, option("Recipe of the spatial alignment.", "NAME")] = "spatial_builtin",
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Override a setting.")] = None,
) -> None:
    """Cache a mask teacher's output.

    A slow teacher, such as SAM 2.1, then runs once for each image and augmentation, and not in every epoch. The run
    that uses the cache needs the same seed, image_size, augmentation and copies. The size is printed after the first
    images; an interrupted pass resumes if the command is repeated. Needs the extra `spatial`.

    Examples:

        pe data masks --data photos -o masks.sqlite --set masks=facebook/sam2.1-hiera-large --set copies=2
        pe train spatial_builtin --data photos --set masks=masks.sqlite --set copies=2
    """
    from perception_encoder.errors import ConfigError
    from perception_encoder.recipes import find_recipe, override
    from perception_encoder.spatial_alignment.config import SpatialConfig
    from perception_encoder.spatial_alignment.run import cache_masks
    from perception_encoder.spatial_alignment.teacher_cache import SUFFIX

    config = override(find_recipe(recipe), set_ or [])
    if not isinstance(config, SpatialConfig):
        raise ConfigError(f"{recipe} is not a recipe of spatial alignment; `pe train --list` shows them")
    if out.suffix != SUFFIX:
        raise ConfigError(f"the cache is {out}; its name must end in {SUFFIX}")
    cached = cache_masks(config, data, out, track, output.print_line)
    output.print_line(f"{cached:,} augmented images: {out}")
