"""Training augmentation: what is cut, mirrored and jittered, and that it is drawn from the generator alone."""

from __future__ import annotations

import pytest
import torch

from perception_encoder.errors import ConfigError
from perception_encoder.preprocess.augmentation import (
    DRAWS,
    MIXING_DRAWS,
    Augmentation,
    Mixing,
    _crop,
    augment,
    jitter,
    mix,
    needed_side,
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draw(seed: int = 0) -> list[float]:
    return torch.rand(DRAWS, generator=generator(seed)).tolist()


def colour_image(height: int, width: int) -> torch.Tensor:
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator(7))


def test_flip_is_a_mirror_image() -> None:
    x = colour_image(16, 16)
    always = Augmentation(scale=(1.0, 1.0), aspect=(1.0, 1.0), brightness=0.0, saturation=0.0, flip=1.0)
    assert torch.equal(augment(x, 16, always, draw()), x.flip(-1))


def test_same_draws_same_bits_and_others_differ() -> None:
    for x in (colour_image(40, 60), colour_image(60, 40)):
        first, again = (augment(x, 24, Augmentation(), draw(3)) for _ in range(2))
        assert first.dtype == torch.uint8
        assert first.shape == (3, 24, 24)
        assert torch.equal(first, again)
        assert not torch.equal(first, augment(x, 24, Augmentation(), draw(4)))


@pytest.mark.parametrize("size", [(1000, 1000), (1400, 600), (600, 1800)])
def test_an_image_reduced_to_the_needed_side_still_has_enough_pixels_in_its_crop(size: tuple[int, int]) -> None:
    needed = needed_side(64, Augmentation())
    assert needed_side(64, None) == 64 < needed <= 300
    height, width = (side * needed // min(size) for side in size)
    for item in torch.rand(500, DRAWS, generator=generator()).tolist():
        _, _, h, w = _crop(height, width, Augmentation(), item)
        assert min(h, w) >= 64


@pytest.mark.parametrize(("height", "width"), [(300, 300), (300, 533), (900, 300)])
def test_crops_are_drawn_as_torchvision_draws_them(height: int, width: int) -> None:
    """Areas, aspects and places of 3,000 crops of each; of two samples of one distribution, one in a million fails."""
    from scipy.stats import ks_2samp
    from torchvision.transforms import RandomResizedCrop

    ours_of, count = Augmentation(), 3000
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        image = torch.empty(3, height, width)
        theirs = [RandomResizedCrop.get_params(image, ours_of.scale, ours_of.aspect) for _ in range(count)]
    draws = torch.rand(count, DRAWS, generator=generator(5)).tolist()
    ours = [_crop(height, width, ours_of, draw) for draw in draws]
    for figure in (
        lambda top, left, h, w: h * w / (height * width),
        lambda top, left, h, w: w / h,
        lambda top, left, h, w: top,
        lambda top, left, h, w: left,
    ):
        found, expected = ([figure(*crop) for crop in crops] for crops in (ours, theirs))
        assert ks_2samp(found, expected).pvalue > 1e-6
    assert all(0.74 < w / h < 1.35 for _, _, h, w in ours)


def test_where_no_crop_fits_it_is_the_middle_as_in_torchvision() -> None:
    from torchvision.transforms import RandomResizedCrop

    whole = Augmentation(scale=(1.0, 1.0))
    for height, width in ((100, 990), (990, 100), (33, 100)):
        expected = RandomResizedCrop.get_params(torch.empty(3, height, width), whole.scale, whole.aspect)
        assert _crop(height, width, whole, draw()) == expected


@pytest.mark.parametrize(
    ("drawn", "brightness", "saturation"),
    [((0.5, 0.5), 1, 1), ((0, 0.5), 0.68, 1), ((1, 0.5), 1.32, 1), ((0.5, 0), 1, 0.68), ((0.5, 1), 1, 1.32)],
)
def test_colours_change_by_the_papers_factors(drawn: tuple[float, float], brightness: float, saturation: float) -> None:
    """0.68 to 1.32 (appendix B.1.1), as torchvision applies them."""
    from torchvision.transforms.functional import adjust_brightness, adjust_saturation

    pixels = torch.randint(60, 180, (1, 3, 9, 9), dtype=torch.uint8, generator=generator())
    expected = adjust_saturation(adjust_brightness(pixels / 255, brightness), saturation) * 255
    found = jitter(pixels, Augmentation(), torch.tensor([drawn])).float()
    torch.testing.assert_close(found, expected, atol=1.1, rtol=0)


@pytest.mark.parametrize(
    "settings", [{"scale": (0.0, 1.0)}, {"scale": (1.0, 0.08)}, {"scale": (0.5, 4.0)}, {"aspect": (0.0, 1.0)}]
)
def test_ranges_that_no_crop_fits_are_refused(settings: dict[str, tuple[float, float]]) -> None:
    """A crop of no area divided by zero once the data were read."""
    with pytest.raises(ConfigError, match=rf"^{next(iter(settings))}(\[\d\])? is .*(must be above 0|must be first)"):
        Augmentation(**settings)


def test_the_frames_of_a_video_are_augmented_alike() -> None:
    video = torch.randint(0, 256, (3, 3, 40, 30), dtype=torch.uint8, generator=generator())
    for augmentation in (Augmentation(), None):
        found = augment(video, 16, augmentation, draw(1))
        assert found.shape == (3, 3, 16, 16)
        for frame, alone in zip(video, found, strict=True):
            assert torch.equal(augment(frame, 16, augmentation, draw(1)), alone)


SIZE = 16
BLACK, WHITE = (
    torch.zeros(64, 3, SIZE, SIZE, dtype=torch.uint8),
    torch.full((64, 3, SIZE, SIZE), 255, dtype=torch.uint8),
)


def draws(seed: int = 0) -> torch.Tensor:
    return torch.rand(len(BLACK), MIXING_DRAWS, generator=torch.Generator().manual_seed(seed))


def test_a_pasted_piece_is_a_square_as_large_as_what_is_not_kept() -> None:
    mixed, kept = mix(BLACK, WHITE, Mixing(share=1.0, pasted=1.0), draws())
    assert set(mixed.unique().tolist()) == {0, 255}
    white = mixed[:, 0] == 255
    assert torch.allclose(white.flatten(1).float().mean(1), 1 - kept)
    assert white.any(1).sum(1).equal(white.any(2).sum(1)), "as high as wide"
    assert len({tuple(item.nonzero()[0].tolist()) for item in white if item.any()}) > 20, "at many places"
    assert 0.5 <= kept.min() < 0.6 and kept.max() > 0.95


def test_a_blend_is_the_mean_by_what_is_kept() -> None:
    mixed, kept = mix(BLACK, WHITE, Mixing(share=1.0, pasted=0.0), draws())
    expected = (255 * (1 - kept)).round().to(torch.uint8)[:, None, None, None].expand_as(mixed)
    assert torch.equal(mixed, expected)
    assert 0.5 <= kept.min() < 0.55 and kept.max() > 0.95


def test_the_shares_are_as_asked_for() -> None:
    batches = [mix(BLACK, WHITE, Mixing(share=0.75, pasted=0.5), draws(seed)) for seed in range(40)]
    mixed, kept = (torch.cat(item) for item in zip(*batches, strict=True))
    blends = mixed.flatten(1).float().std(1).eq(0) & (kept < 1)
    assert (kept < 1).float().mean().item() == pytest.approx(0.75, abs=0.03)
    assert blends.float().mean().item() == pytest.approx(0.375, abs=0.03)
