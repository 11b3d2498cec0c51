"""Pixels of images and videos for a language model's encoder."""

from __future__ import annotations

import torch
from PIL import Image

from perception_encoder.language_alignment.media import MediaConfig, media_pixels
from perception_encoder.preprocess.frames import VideoFrames
from perception_encoder.preprocess.tiling import tile_image

WIDE = Image.effect_noise((128, 64), 90).convert("RGB")


def test_an_image_alone_is_tiled_within_the_budget() -> None:
    for tiles, count in ((0, 1), (1, 1), (2, 3), (4, 3)):
        pixels = media_pixels(WIDE, MediaConfig(image_size=32, tiles=tiles))
        assert pixels.shape == (count, 3, 32, 32), tiles
    torch.testing.assert_close(pixels, tile_image(WIDE, 32, 4))


def test_one_of_several_is_a_thumbnail_unless_each_is_tiled() -> None:
    assert len(media_pixels(WIDE, MediaConfig(image_size=32), alone=False)) == 1
    assert len(media_pixels(WIDE, MediaConfig(image_size=32, tile_each=True), alone=False)) == 3


def test_frames_are_never_tiled() -> None:
    video = VideoFrames([WIDE, WIDE], [0.0, 1.0], 2.0, 2, complete=True)
    pixels = media_pixels(video, MediaConfig(image_size=32, tiles=16))
    assert pixels.shape == (2, 3, 32, 32) and torch.equal(pixels[0], pixels[1])
