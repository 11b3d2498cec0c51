"""Training augmentation: what is cut, mirrored and jittered, and that it is drawn from the generator alone."""

from __future__ import annotations

import pytest
import torch

from perception_encoder.preprocess.augmentation import DRAWS, Augmentation, _crop, augment, jitter, needed_side

PLAIN = Augmentation(scale=(1.0, 1.0), aspect=(1.0, 1.0), brightness=0.0, saturation=0.0, flip=0.0)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draw(seed: int = 0) -> list[float]:
    return torch.rand(DRAWS, generator=generator(seed)).tolist()


def picture(height: int, width: int) -> torch.Tensor:
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator(7))


def test_nothing_drawn_is_a_plain_resize() -> None:
    x = picture(32, 32)
    assert torch.equal(augment(x, 32, PLAIN, draw()), x)


def test_flip_is_a_mirror_image() -> None:
    x = picture(16, 16)
    always = Augmentation(scale=(1.0, 1.0), aspect=(1.0, 1.0), brightness=0.0, saturation=0.0, flip=1.0)
    assert torch.equal(augment(x, 16, always, draw()), x.flip(-1))


def test_same_draws_same_bits_and_others_differ() -> None:
    for x in (picture(40, 60), picture(60, 40)):
        first, again = (augment(x, 24, Augmentation(), draw(3)) for _ in range(2))
        assert first.dtype == torch.uint8
        assert first.shape == (3, 24, 24)
        assert torch.equal(first, again)
        assert not torch.equal(first, augment(x, 24, Augmentation(), draw(4)))


@pytest.mark.parametrize("size", [(1000, 1000), (600, 1400), (1400, 600)])
def test_a_picture_reduced_to_the_needed_side_still_has_enough_pixels_in_its_crop(size: tuple[int, int]) -> None:
    height, width = size
    reductions = set()
    for each in torch.rand(300, DRAWS, generator=generator()).tolist():
        needed = needed_side(width, height, 64, Augmentation(), each)
        assert needed == needed_side(height, width, 64, Augmentation(), each)  # a camera may have stored it turned
        reduction = max(k for k in (1, 2, 4, 8) if min(size) / k >= needed or k == 1)  # as the JPEG decoder can
        _, _, h, w = _crop(height // reduction, width // reduction, Augmentation(), each)
        assert min(h, w) >= 64 - 1
        reductions.add(reduction)
    assert {2, 4, 8} <= reductions
    assert needed_side(width, height, 64, None, draw()) == 64


@pytest.mark.parametrize("size", [(100, 100), (60, 120), (10, 300), (1, 1)])
def test_crops_lie_inside_and_keep_to_the_ranges(size: tuple[int, int]) -> None:
    height, width = size
    augmentation = Augmentation(scale=(0.1, 0.5))
    for draw in torch.rand(500, 5, generator=generator()).tolist():
        top, left, h, w = _crop(height, width, augmentation, draw)
        assert 0 <= top <= height - h
        assert 0 <= left <= width - w
        if min(size) > 10:
            assert 0.05 * height * width <= h * w <= 0.55 * height * width
            assert h in (height,) or w in (width,) or 0.7 < w / h < 1.4


def test_jitter_scales_brightness_and_saturation_only() -> None:
    grey = torch.full((64, 3, 2, 2), 100, dtype=torch.uint8)
    out = jitter(grey, Augmentation(), torch.rand(len(grey), 2, generator=generator())).float()
    assert torch.equal(out.amax(1), out.amin(1))  # grey stays grey
    assert 66 <= out.min() < 80
    assert 120 < out.max() <= 132
