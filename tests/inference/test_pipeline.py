"""The stream from inputs to vectors: in order, no more in memory than it needs, every bad file reported."""

from __future__ import annotations

import copy
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from perception_encoder.errors import ConfigError, InputError, MediaNotFoundError
from perception_encoder.formats.listing import list_items
from perception_encoder.inference.collection import encode_media, list_media_items
from perception_encoder.inference.encoder import Encoder
from perception_encoder.inference.pipeline import (
    Embedding,
    Failure,
    Feature,
    Request,
    map_in_order,
)
from perception_encoder.preprocess.budget import DECODING
from perception_encoder.preprocess.fetch import FetchLimits
from perception_encoder.preprocess.image import open_image
from perception_encoder.preprocess.media import Media, resolve
from perception_encoder.runtime.torch_towers import TorchThreads
from tests.preprocess.test_media import mutated

TORCH = TorchThreads(torch.device("cpu"), torch.float32, batch_size=8)


def text(number: int) -> Request[int]:
    return Request(number, Media("text", str(number), f"thing {number}"), "text")


def image_request(number: int, draw: Callable[[int], Image.Image]) -> Request[int]:
    return Request(number, Media("image", str(number), draw(number)))


def test_results_come_in_order_whichever_is_done_first() -> None:
    def work(number: int) -> int:
        time.sleep(0.02 if number % 3 == 0 else 0)
        return -number

    assert list(map_in_order(work, range(30), workers=4, runtime=TORCH)) == [-number for number in range(30)]


def test_no_more_is_taken_than_is_needed() -> None:
    taken: list[int] = []

    def numbers() -> Iterator[int]:
        for number in range(1000):
            taken.append(number)
            yield number

    stream = map_in_order(abs, numbers(), workers=3, runtime=TORCH)
    for seen in range(1, 20):
        next(stream)
        assert len(taken) <= seen + 2 * 3
    stream.close()
    assert len(taken) < 30


def test_an_error_of_the_work_stops_the_stream() -> None:
    done: list[int] = []

    def work(number: int) -> int:
        if number == 5:
            raise ZeroDivisionError
        done.append(number)
        return number

    stream = map_in_order(work, range(1000), workers=2, runtime=TORCH)
    assert [next(stream) for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(ZeroDivisionError):
        next(stream)
    assert len(done) < 12
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("encode")]


def test_each_thread_computes_on_one_core_unless_it_is_the_only_one() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert set(map_in_order(lambda _: torch.get_num_threads(), range(20), workers=3, runtime=TORCH)) == {1}
        assert list(map_in_order(lambda _: torch.get_num_threads(), range(2), workers=1, runtime=TORCH)) == [2, 2]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_a_batch_holds_as_many_as_cost_the_same(encoder: Encoder, draw: Callable[[int], Image.Image]) -> None:
    requests = [*map(text, range(32)), *(image_request(number, draw) for number in range(32, 90))]
    batches = list(encoder.stream(iter(requests), encoder.feature()))
    assert (encoder.text_batch_size, encoder.batch_size) == (64, 52)
    assert [len(batch) for batch in batches] == [32 + 26, 32]
    assert [result.key for batch in batches for result in batch] == list(range(90))


def test_a_short_list_is_shared_out(encoder: Encoder, draw: Callable[[int], Image.Image]) -> None:
    def sizes(requests: list[Request[int]], workers: int) -> list[int]:
        return [len(batch) for batch in encoder.stream(requests, encoder.feature(), workers=workers)]

    requests_of_images = [image_request(number, draw) for number in range(9)]
    assert sizes(requests_of_images, workers=2) == [5, 4]
    assert sizes(requests_of_images, workers=1) == [9]
    assert sizes(list(map(text, range(9))), workers=2) == [9]
    assert sizes([], workers=2) == []


def test_a_video_weighs_as_much_as_its_frames(encoder: Encoder) -> None:
    videos = [Request(number, partial(resolve, np.zeros((4, 16, 16, 3), np.uint8)), "video") for number in range(20)]
    batches = encoder.stream(iter(videos), encoder.feature(0), workers=1)
    assert [len(batch) for batch in batches] == [7, 7, 6]  # 8 frames each, 52 image_files a batch


def test_the_next_batch_is_decoded_while_one_is_encoded(encoder: Encoder, draw: Callable[[int], Image.Image]) -> None:
    decoded = threading.Event()

    def embed_pixels(pixels: np.ndarray, feature: Feature) -> np.ndarray:
        assert decoded.wait(timeout=20), "the second batch is not decoded while the first one is encoded"
        return np.zeros((len(pixels), 4), np.float32)

    def announced(number: int, limits: FetchLimits) -> Media:
        if number == 2:
            decoded.set()
        return Media("image", str(number), draw(number))

    waiting = copy.copy(encoder)
    waiting.embed_pixels = embed_pixels  # type: ignore[method-assign]
    requests = [Request(number, partial(announced, number)) for number in range(4)]
    assert len(list(waiting.stream(requests, encoder.feature(), batch_size=2, workers=2))) == 2


def test_a_batch_of_videos_is_encoded_some_frames_at_a_time(encoder: Encoder) -> None:
    sizes: list[int] = []

    def embed_pixels(pixels: np.ndarray, feature: Feature) -> np.ndarray:
        sizes.append(len(pixels))
        return encoder.embed_pixels(pixels, feature)

    counting = copy.copy(encoder)
    counting.embed_pixels = embed_pixels  # type: ignore[method-assign]
    videos = np.random.default_rng(0).integers(0, 256, (3, 9, 32, 32, 3), dtype=np.uint8)
    feature = encoder.feature(0, frames=7)
    requests = [Request(number, partial(resolve, video)) for number, video in enumerate(videos)]
    (batch,) = counting.stream(requests, feature, batch_size=4, workers=1)
    assert sizes == [4, 4, 4, 4, 4, 1]
    for result, video in zip(batch, videos, strict=True):
        assert isinstance(result, Embedding)
        np.testing.assert_allclose(result.vector, encoder.encode(video, layer=0, frames=7), rtol=0, atol=2e-6)


def test_workers_change_no_bit(encoder: Encoder, draw: Callable[[int], Image.Image]) -> None:
    def run(workers: int) -> np.ndarray:
        requests = [image_request(number, draw) for number in range(21)]
        stream = encoder.stream(requests, encoder.feature(1), batch_size=5, workers=workers)
        return np.stack([result.vector for batch in stream for result in batch if isinstance(result, Embedding)])

    assert (run(2) == run(3)).all()


def test_items_keep_their_place_and_bad_ones_their_reason(encoder: Encoder, image_files: list[Path]) -> None:
    image_files[4].write_bytes(b"nothing")
    (image_files[0].parent / "texts.csv").write_text("text\na dog\na cat\n")
    items = list(list_items([image_files[0].parent, "gone.jpg", image_files[0].parent / "texts.csv"]))
    results = [result for batch in encoder.stream_items(items, encoder.feature()) for result in batch]
    assert [result.key for result in results] == items
    failures = {result.key.path: result.error for result in results if isinstance(result, Failure)}
    assert [Path(path).name for path in failures] == ["04.jpg", "gone.jpg"]
    assert isinstance(failures["gone.jpg"], MediaNotFoundError)
    np.testing.assert_allclose(results[-1].vector, encoder.encode("a cat"), rtol=0, atol=2e-6)
    np.testing.assert_allclose(results[7].vector, encoder.encode(image_files[7]), rtol=0, atol=2e-6)


@pytest.mark.timeout(200)
def test_mutated_files_give_their_own_row_or_a_reason(encoder: Encoder, tmp_path: Path) -> None:
    """Three hundred damaged images and videos: no crash, no hang, and no row that is another's."""
    for name, data in mutated(300, 77):
        (tmp_path / name).write_bytes(data)
    paths = sorted(tmp_path.iterdir())
    encode = partial(encoder.encode, layer=0, pool="mean", frames=2)
    skipped: dict[int, InputError] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rows = encode(paths, skipped=skipped)
    assert len(rows) + len(skipped) == 300
    assert 50 < len(skipped) < 250
    good = [index for index in range(300) if index not in skipped]
    for row, index in zip(rows, good, strict=True):
        np.testing.assert_allclose(row, encode(paths[index]), rtol=0, atol=5e-6, err_msg=paths[index].name)
    for index, error in skipped.items():
        assert paths[index].name in str(error)
        with pytest.raises(type(error)):
            encode(paths[index])


MEMORY = """
import resource, sys, torch
from pathlib import Path
from perception_encoder.inference.load import load
from perception_encoder.formats.listing import list_items
from perception_encoder.inference import output
from perception_encoder.inference.output import EmbeddingWriter

output._PART_BYTES = 1 << 20
folder, checkpoint, out = sys.argv[1:]
encoder = load(checkpoint, dtype=torch.float32)
feature = encoder.feature(0, "mean")
peaks = {}
with EmbeddingWriter(Path(out), encoder.describe(feature)) as writer:
    done = 0
    for batch in encoder.stream_items(writer.resume(list_items([folder])), feature):
        writer.add(batch)
        done += len(batch)
        peaks[done] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert writer.finish() == 10_000
    peaks[done] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
early = next(peak for done, peak in peaks.items() if done >= 2_000)
print((peaks[10_000] - early) / 1024)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="ru_maxrss has other units elsewhere")
def test_memory_stays_flat_over_ten_thousand_files(checkpoint: Path, image_files: list[Path], tmp_path: Path) -> None:
    directory = tmp_path / "many"
    directory.mkdir()
    for number in range(10_000):
        (directory / f"{number:05d}.jpg").hardlink_to(image_files[number % len(image_files)])
    command = [sys.executable, "-c", MEMORY, directory, checkpoint, tmp_path / "out.parquet"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert float(done.stdout) < 24, "MiB that the peak grew by after the first 2,000 files"


def test_large_images_of_several_workers_wait_for_each_other(
    encoder: Encoder, image_files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DECODING, "limit", 1)
    decoding, most, lock = 0, 0, threading.Lock()
    pixels = type(encoder.transform).pixels

    def counted(self: object, image: Image.Image) -> object:
        nonlocal decoding, most
        with lock:
            decoding += 1
            most = max(most, decoding)
        time.sleep(0.01)
        with lock:
            decoding -= 1
        return pixels(self, image)

    monkeypatch.setattr(type(encoder.transform), "pixels", counted)
    requests = [Request(number, partial(resolve, path)) for number, path in enumerate(image_files[:8])]
    results = [r for batch in encoder.stream(requests, encoder.feature(), 1, workers=4) for r in batch]
    assert most == 1 and [result.key for result in results] == list(range(8))


def test_items_and_vectors_stay_together_if_a_file_is_bad(encoder: Encoder, image_files: list[Path]) -> None:
    image_files[3].write_bytes(b"")
    done: list[int] = []

    def track(results, description, total):
        for result in results:
            yield result
            done.append(total)

    collection = encode_media(encoder, list_media_items([image_files[0].parent]), track)
    good = [path for path in image_files if path != image_files[3]]
    assert [item.source for item in collection.items] == good
    np.testing.assert_allclose(collection.vectors, encoder.encode_images(good), atol=1e-5)
    assert collection.is_video == [False] * 19
    assert [error.to_dict() for error in collection.failures] == [{"path": str(image_files[3]), "reason": "is empty"}]
    assert collection.total == len(done) == done[0] == 20


def test_texts_of_a_table_are_not_media(encoder: Encoder, tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("text\na cat\n")
    collection = encode_media(encoder, list_media_items([tmp_path / "table.csv"]))
    assert collection.vectors.shape == (0, encoder.dimension)
    assert [failure.source for failure in collection.failures] == [f"{tmp_path}/table.csv:1"]


@pytest.mark.parametrize("decoding", [None, "exact", "reduced"])
def test_jpegs_are_reduced_where_it_is_asked_for(encoder: Encoder, tmp_path: Path, decoding: str | None) -> None:
    pattern = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    size = encoder.transform.size
    Image.fromarray(pattern).resize((8 * size, 6 * size)).save(path := tmp_path / "large.jpg", quality=90)
    chosen = encoder.decoding_as(decoding) if decoding else encoder
    whole, reduced = open_image(path), open_image(path, reduce_to=2 * size)
    assert (whole.width, reduced.width) == (8 * size, 4 * size)
    found, expected = chosen.encode_images(path), encoder.encode_images(reduced if decoding == "reduced" else whole)
    np.testing.assert_array_equal(encoder.encode(path, decoding=decoding), found)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    assert np.abs(encoder.encode_images(reduced) - encoder.encode_images(whole)).max() > 1e-4
    for given in (path, whole):
        tokens = chosen.encode_images(given, layer=0, pool="tokens")
        np.testing.assert_array_equal(tokens, encoder.encode_images(whole, layer=0, pool="tokens"))
    assert chosen.describe(chosen.feature())["decoding"] == (decoding or "exact")
    with pytest.raises(ConfigError, match="decoding is 'fast'"):
        encoder.decoding_as("fast")
