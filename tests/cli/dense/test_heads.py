"""`pe depth`, `pe segment` and the calls under them: inputs, results, and files that cannot be read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import perception_encoder as pe
from perception_encoder.dense_prediction.heads import list_dense_inputs
from perception_encoder.errors import ConfigError, DataError, InputError
from perception_encoder.preprocess.video import read_frames
from perception_encoder.preprocess.video_file import write_video
from tests.clips import of_two_sizes
from tests.conftest import Run


def test_depth_of_images_and_videos(run_pe: Callable[..., Run], depth_head: Path, tmp_path: Path) -> None:
    media, out = tmp_path / "media", tmp_path / "out"
    media.mkdir()
    Image.new("RGB", (60, 40), (200, 30, 30)).save(media / "photo.png")
    with write_video(media / "clip.mp4", (48, 32), 4) as add:
        for level in (0, 120, 250):
            add(Image.new("RGB", (48, 32), (level, level, level)))
    run = run_pe("depth", media, "--head", depth_head, "-o", out)
    assert run.status == 0
    assert [line.split("\t")[0] for line in run.stdout.splitlines()] == [
        "image",
        *(f"clip.mp4/0000{number}" for number in range(3)),
        "photo.png",
    ]
    depth = np.asarray(Image.open(out / "photo.depth.png"))
    assert depth.shape == (40, 60) and depth.dtype == np.uint16 and 1 <= depth.min() <= depth.max() <= 10_000
    with Image.open(out / "photo.png") as colours:
        assert colours.size == (60, 40) and colours.mode == "RGB"
    assert (out / "clip" / "00002.depth.png").is_file() and len(read_frames(out / "clip.mp4", frames=3).images) == 3
    printed = run.stdout.splitlines()[-1].split("\t")[1:]
    shown = [float(text.removesuffix(" m")) for text in printed]
    assert shown[::2] == pytest.approx([depth.min() / 1000, depth.max() / 1000], abs=0.0055)  # both are rounded


def test_the_built_in_depth_head(run_pe: Callable[..., Run], tmp_path: Path) -> None:
    Image.linear_gradient("L").convert("RGB").save(tmp_path / "photo.png")
    run = run_pe("depth", tmp_path / "photo.png", "-o", tmp_path / "out")
    assert run.status == 0, run.stderr
    depth = np.asarray(Image.open(tmp_path / "out" / "photo.depth.png"))
    assert depth.shape == (256, 256) and np.median(depth) == pytest.approx(1000, abs=1)
    (line,) = [line for line in run.stdout.splitlines() if line.startswith("photo.png")]
    assert line.split("\t")[2] == "1.00 of the median" and " m" not in line.replace(" median", "")  # it knows no metres
    (image,) = json.loads(run_pe("depth", tmp_path / "photo.png", "--json").stdout)["images"]
    assert image["unit"] == "of the median" and line.split("\t")[1] == f"{image['nearest']:.2f} of the median"


def test_errors_of_depth(run_pe: Callable[..., Run], depth_head: Path, segmenter: Path, tmp_path: Path) -> None:
    photo = tmp_path / "photo.png"
    Image.new("RGB", (60, 40)).save(photo)
    run = run_pe("depth", photo, "--head", segmenter, "-o", tmp_path / "out")
    assert run.status == 2 and "is a head for segmentation, not for depth" in run.stderr
    run = run_pe("depth", photo, "--head", depth_head, "-m", "random:builtin", "-o", tmp_path / "out")
    assert run.status == 2 and "belongs to PE-Core-N16-128, layer 11, with weights" in run.stderr
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    run = run_pe("depth", photo, tmp_path / "bad.jpg", "--head", depth_head, "-o", tmp_path / "out", "--strict")
    assert run.status == 1 and "bad.jpg" in run.stderr and (tmp_path / "out" / "photo.png").is_file()


@pytest.fixture
def square(tmp_path: Path) -> Path:
    """A red square, a fifth of the image, before green."""
    pixels = np.full((120, 120, 3), (20, 120, 30), np.uint8)
    pixels[30:84, 30:84] = (220, 30, 30)
    Image.fromarray(pixels).save(tmp_path / "square.png")
    return tmp_path / "square.png"


def test_regions_by_points(run_pe: Callable[..., Run], square: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.png"
    run = run_pe("segment", square, "--point", "0.5,0.5", "-o", out, "--short-side", 128, "--json")
    assert run.status == 0
    (region,) = json.loads(run.stdout)["regions"]
    assert region["id"] == 1 and region["bbox"] == pytest.approx([30, 30, 54, 54], abs=16)
    mask = np.asarray(Image.open(tmp_path / "out.mask.png"))
    assert (mask > 0).sum() == region["area"] and mask[57, 57] == 1 and mask[5, 5] == 0
    with Image.open(out) as drawn:
        assert drawn.size == (120, 120)
    words = ("segment", square, "--point", "60,60", "--point", "5,5", "--short-side", 128)
    before = out.read_bytes()
    for existing in (out, tmp_path / "out.mask.png"):  # each alone, and neither is replaced
        run = run_pe(*words, "-o", out)
        assert run.status == 2 and f"{existing} exists; choose another name" in " ".join(run.stderr.split())
        assert not out.exists() or out.read_bytes() == before
        out.unlink(missing_ok=True)
    run = run_pe(*words, "-o", out, "--overwrite")
    assert run.status == 0 and [line.split("\t")[0] for line in run.stdout.splitlines()[1:3]] == ["1", "2"]
    printed = [line.split("\t") for line in run_pe(*words).stdout.splitlines()]
    assert printed[0] == ["region", "share", "x0", "y0", "x1", "y1"] and len(printed) == 3
    assert [int(value) for value in printed[1][2:]] == pytest.approx([30, 30, 84, 84], abs=16)


def test_classes_by_a_head(run_pe: Callable[..., Run], square: Path, segmenter: Path, tmp_path: Path) -> None:
    run = run_pe("segment", square, "--head", segmenter, "-o", tmp_path / "out.png", "--json")
    assert run.status == 0
    regions = json.loads(run.stdout)["regions"]
    assert {region["name"] for region in regions} <= {"chair", "lamp"} and sum(
        region["area"] for region in regions
    ) <= 120**2


def test_errors_of_segment(run_pe: Callable[..., Run], square: Path, tmp_path: Path) -> None:
    run = run_pe("segment", square, "--point", "130,5", "-o", tmp_path / "out.png")
    assert run.status == 2 and "the position 130,5 is not inside the image of 120x120 pixels" in run.stderr
    run = run_pe("segment", square, "-o", tmp_path / "out.png")
    assert run.status == 2 and "choose what to segment: points, or a head" in run.stderr
    run = run_pe("segment", square, "--point", "here", "-o", tmp_path / "out.png")
    assert run.status == 2 and "the position is 'here'; it must be X,Y, in pixels or from 0 to 1" in run.stderr
    run = run_pe("segment", square, "--point", "0.5,0.5", "--layer", 99, "-o", tmp_path / "out.png")
    assert run.status == 2 and "layer 99" in run.stderr
    square.with_name("second.png").write_bytes(square.read_bytes())
    run = run_pe("segment", tmp_path, "--point", "0.5,0.5", "-o", tmp_path / "out.png")
    assert run.status == 2 and "there are 2 images and videos; segment one image at a time" in run.stderr


def test_names_are_relative_to_the_directory_that_all_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a/x.png", "a/y.jpg", "a/y.png", "b/x.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / name)

    def names(*paths: Path) -> list[tuple[str, str]]:
        return [(item.name, item.out) for item in list_dense_inputs(paths)]

    assert names(tmp_path / "a") == [("x.png", "x"), ("y.jpg", "y.jpg"), ("y.png", "y.png")]
    assert names(tmp_path / "a" / "x.png") == [("x.png", "x")]
    both = [("a/x.png", "a/x"), ("a/y.jpg", "a/y.jpg"), ("a/y.png", "a/y.png"), ("b/x.png", "b/x")]
    assert (
        names(tmp_path / "a", tmp_path / "b") == names(tmp_path / "a", tmp_path / "a" / "x.png", tmp_path / "b") == both
    )
    monkeypatch.chdir(tmp_path / "a")
    assert names(Path("x.png"), Path("../b/x.png")) == [("a/x.png", "a/x"), ("b/x.png", "b/x")]
    picture = Image.new("RGB", (9, 9))
    mixed = list_dense_inputs([Path("x.png"), picture, tmp_path / "b"])  # pictures in memory came before all files
    assert [item.media for item in mixed] == [Path("x.png"), picture, tmp_path / "b" / "x.png"]
    Image.new("RGB", (8, 8)).save(tmp_path / "a" / "y.jpg.png")
    assert names(tmp_path / "a")[1:] == [(name, name) for name in ("y.jpg", "y.jpg.png", "y.png")]
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no images or videos in "):
        list_dense_inputs([tmp_path / "empty"])


def test_files_that_cannot_be_read(depth_head: Path, tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "good.png")
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    (tmp_path / "clip.h264").write_bytes(of_two_sizes((96, 64), (64, 48)))
    files = [tmp_path / name for name in ("good.png", "bad.mp4", "missing.png", "clip.h264")]
    skipped: list[InputError] = []
    found = list(pe.depth(files, tmp_path / "out", head=depth_head, skipped=skipped))
    assert [item.name for item in found] == ["good.png", *(f"clip.h264/0000{number}" for number in range(4))]
    assert len(skipped) == 3 and str(skipped[-1]) == "clip.h264: frame 4 has 64x48 pixels, the first frame 96x64"
    assert (tmp_path / "out" / "good.png").is_file() and not (tmp_path / "out" / "clip.mp4").exists()
    with pytest.raises(InputError, match=r"bad\.mp4"):
        list(pe.depth(files, head=depth_head))


def test_results_of_images_in_memory(depth_head: Path, detector: Path, segmenter: Path) -> None:
    image = Image.linear_gradient("L").convert("RGB").resize((60, 40))
    head = pe.load_head(depth_head)
    depth, same = head.predict([image, np.asarray(image)])
    assert (depth.name, same.name, depth.depth.shape) == ("00000", "00001", (40, 60))
    assert np.array_equal(depth.depth, same.depth) and depth.draw().size == (60, 40)
    assert depth.to_dict()["unit"] == "m" and depth.to_dict()["nearest"] <= depth.to_dict()["farthest"]
    (found,) = pe.detect(image, head=detector, score=0.0)
    assert json.loads(json.dumps(found.to_dict()))["objects"][0]["class"] in ("red", "blue")
    classes = pe.segment(image, head=segmenter)
    assert classes.labels.shape == (40, 60) and classes.to_dict()["head"] == str(segmenter)
    with pytest.raises(ConfigError, match="is a head for depth, not for detection"):
        pe.detect(image, head=head)


def test_an_images_bytes_and_what_is_no_media(depth_head: Path, detector: Path, tmp_path: Path) -> None:
    """An AttributeError or a TypeError from inside a library, or an index of 137, 80, 78, …"""
    image, path = Image.linear_gradient("L").convert("RGB").resize((60, 40)), tmp_path / "photo.png"
    image.save(path)
    head = pe.load_head(depth_head)
    first, second = (next(head.predict(media)) for media in (path.read_bytes(), [path]))
    assert np.array_equal(first.depth, second.depth)
    assert pe.segment(path.read_bytes(), points=[(0.5, 0.5)], short_side=64).labels.shape == (40, 60)
    for bad, reason in ((None, "type NoneType"), ([path, 3], "input 1: is of type int"), (b"x", "is not an image")):
        with pytest.raises(InputError, match=reason):
            list(pe.detect(bad, head=detector))  # type: ignore[arg-type]
    calls: list[Callable[[object], object]] = [
        lambda media: pe.track(media, points=[(0.5, 0.5)]),  # type: ignore[arg-type]
        lambda media: pe.embed(media, tmp_path / "out.parquet", model="builtin"),  # type: ignore[arg-type]
        lambda media: pe.classify(media, ["a cup", "a chair"], model="builtin"),  # type: ignore[arg-type]
        lambda media: pe.search_files("a cup", media, "builtin"),  # type: ignore[arg-type]
        lambda media: pe.open_index(media),  # type: ignore[arg-type]
        lambda media: pe.run_engine(media, tmp_path / "engine", "builtin"),  # type: ignore[arg-type]
    ]
    for call in calls:
        with pytest.raises(InputError, match="is of type bytes; give "):
            call(path.read_bytes())
