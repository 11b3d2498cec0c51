"""Messages, and tiles by the rules of the published PLM."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from perception_encoder.errors import ConfigError
from perception_encoder.preprocess.conversation import Message, ask
from perception_encoder.preprocess.frames import VideoFrames
from perception_encoder.preprocess.tiling import MediaConfig, media_pixels, tile_grid, tile_image

RED, BLUE = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "blue")


def test_media_come_before_the_question() -> None:
    (user,) = ask("what is it?", [RED, BLUE])
    assert user.content == (RED, BLUE, "what is it?")
    assert user.media == [RED, BLUE]


def test_only_the_user_shows_images() -> None:
    with pytest.raises(ConfigError, match="a message of the assistant"):
        Message("assistant", (RED,))
    with pytest.raises(ConfigError, match="role is 'bot'"):
        Message("bot", ("hi",))  # type: ignore[arg-type]


GOLDEN = Path(__file__).parent.parent / "golden"
GRIDS = json.loads((GOLDEN / "plm.json").read_text())["tile_grids"]
TILES = np.load(GOLDEN / "plm.npz")


def test_grids_are_those_of_the_reference() -> None:
    for case in GRIDS:
        found = tile_grid(case["width"], case["height"], case["tile"], case["budget"])
        assert list(found) == case["grid_wh"], case


def test_tiles_are_those_of_the_reference() -> None:
    for name in (name for name in TILES if name.startswith("tiles/")):
        seed, size, tile, budget = name.removeprefix("tiles/").split("_")
        width, height = map(int, size.split("x"))
        generator = np.random.Generator(np.random.Philox(key=int(seed)))
        coarse = generator.integers(0, 256, (max(2, height // 16), max(2, width // 16), 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BILINEAR)
        tiles = tile_image(image, int(tile.removeprefix("tile")), int(budget.removeprefix("budget")))
        np.testing.assert_allclose(tiles.numpy()[:, :, ::8, ::8], TILES[name], atol=1e-6, err_msg=name)


WIDE = Image.effect_noise((128, 64), 90).convert("RGB")


def test_an_image_alone_is_tiled_within_the_budget() -> None:
    for tiles, count in ((0, 1), (1, 1), (2, 3), (4, 3)):
        pixels = media_pixels(WIDE, MediaConfig(image_size=32, tiles=tiles))
        assert pixels.shape == (count, 3, 32, 32), tiles
    torch.testing.assert_close(pixels, tile_image(WIDE, 32, 4))


def test_frames_are_never_tiled() -> None:
    video = VideoFrames([WIDE, WIDE], [0.0, 1.0], 2.0, 2, complete=True)
    pixels = media_pixels(video, MediaConfig(image_size=32, tiles=16))
    assert pixels.shape == (2, 3, 32, 32) and torch.equal(pixels[0], pixels[1])
