"""Pairs out of tars: every one once an epoch, the same on any ranks; the index of a shard, cached and made again."""

from __future__ import annotations

import json
import random
import threading
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import torch
from PIL import Image
from webdataset.tariterators import group_by_keys, tar_file_iterator

from perception_encoder.data import shard_index
from perception_encoder.data.pairs import ImageTextBatch, PairBatches, ResolutionStage, alone, captions
from perception_encoder.data.shard_index import load_table
from perception_encoder.data.streams import Shards, ShardSet, StreamConfig, open_shards
from perception_encoder.errors import ConfigError, DataError, MediaDecodeError
from perception_encoder.preprocess.augmentation import Augmentation, Mixing
from perception_encoder.preprocess.tokenizer import Tokenizer
from perception_encoder.ranks import ALONE, Rank
from tests.clips import HEIGHT, WIDTH, clip, number_of
from tests.data.tars import image_bytes, write_pairs, write_tar


@pytest.fixture(autouse=True)
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache directory of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    load_table.cache_clear()
    return tmp_path / "caches"


def streams(*places: Path | str, config: StreamConfig | None = None) -> list[ShardSet]:
    shards = [Shards.parse(str(place)) for place in places]
    return open_shards(shards, config or StreamConfig(), ALONE, alone)


def batches(
    sets: Sequence[ShardSet],
    size: int = 6,
    weights: Sequence[float] = (1.0,),
    augmentation: Augmentation | None = None,
    image_size: int = 8,
    **settings: Any,
) -> PairBatches:
    stages = (ResolutionStage(image_size=image_size, steps=100),)
    return PairBatches(sets, weights, size, stages, augmentation, Tokenizer(16), 3, **settings)


def numbers(batch: ImageTextBatch) -> list[int]:
    """Which images of `write_pairs` are in a batch."""
    return batch.images[:, 0, 0, 0].tolist()


def equal(one: ImageTextBatch, other: ImageTextBatch) -> bool:
    names = ("images", "tokens", "image_positives", "text_positives")
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in names)


def load_all(sets: ShardSet) -> list[Any]:
    return [sets.load(index, 1) for index in range(len(sets))]


def test_every_pair_comes_once_an_epoch_with_its_own_caption(tmp_path: Path) -> None:
    for shard in range(3):
        write_pairs(tmp_path / f"{shard}.tar", range(10 * shard, 10 * shard + 6))
    make = batches(streams(tmp_path))
    epochs = [[make(step) for step in range(3 * epoch, 3 * epoch + 3)] for epoch in range(2)]
    for epoch in epochs:
        assert sorted(n for batch in epoch for n in numbers(batch)) == [*range(6), *range(10, 16), *range(20, 26)]
    assert numbers(epochs[0][0]) != numbers(epochs[1][0])
    first = epochs[0][0]
    for number, row in zip(numbers(first), first.image_positives, strict=True):
        assert first.tokens[row].equal(Tokenizer(16)([f"number {number}"])[:, : first.tokens.shape[1]])


def test_the_same_batch_from_any_number_of_threads_and_after_a_resume(tmp_path: Path) -> None:
    write_pairs(tmp_path / "x.tar", range(20))
    run = batches(streams(tmp_path / "x.tar"), augmentation=Augmentation())
    unbroken = [run(step) for step in range(8)]
    resumed = batches(streams(tmp_path / "x.tar"), augmentation=Augmentation(), workers=4)
    assert all(equal(resumed(step), unbroken[step]) for step in (7, 2, 5))


@pytest.mark.parametrize(("count", "mixing"), [(2, None), (5, None), (3, Mixing())])
def test_ranks_share_a_batch_also_where_they_are_more_than_shards(
    tmp_path: Path, count: int, mixing: Mixing | None
) -> None:
    write_pairs(tmp_path / "only.tar", range(20), n7_png=b"damaged")
    whole = batches(streams(tmp_path / "only.tar"), 20, bad_share=0.5, mixing=mixing)(2)
    assert whole.left_out == 1
    barrier, said = threading.Barrier(count), [None] * count

    def work(number: int) -> ImageTextBatch:
        def exchange(value: Any) -> list[Any]:
            said[number] = value
            barrier.wait()
            values = list(said)
            barrier.wait()
            return values

        rank = Rank(rank=number, world_size=count)
        sets = open_shards([Shards(str(tmp_path / "only.tar"))], StreamConfig(), rank, exchange)
        return batches(sets, 20, rank=rank, exchange=exchange, bad_share=0.5, mixing=mixing)(2)

    with ThreadPoolExecutor(count) as pool:
        parts = list(pool.map(work, range(count)))
    assert torch.equal(torch.cat([part.images for part in parts]), whole.images)  # uint8: exact
    for name in ("image_positives", "text_positives"):
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(whole, name))
    assert torch.equal(whole.text_positives, whole.image_positives.T)
    assert all(part.left_out == 1 and len(part) == 20 for part in parts)
    widest = whole.tokens.shape[1]
    tokens = [torch.nn.functional.pad(part.tokens, (0, widest - part.tokens.shape[1])) for part in parts]
    assert torch.equal(torch.cat(tokens), whole.tokens)


def draw(pair: Any, times: int = 2000) -> Counter[str]:
    generator = np.random.default_rng(0)
    return Counter(pair.caption(generator) for _ in range(times))


def test_caption_fields_are_drawn_by_their_shares(tmp_path: Path) -> None:
    said = {"caption": "A  cup", "alt_text": ["IMG 1", "", 5, "IMG 2"], "url": "u"}
    write_tar(
        tmp_path / "x.tar", {"a.json": json.dumps(said).encode(), "a.png": image_bytes(1), "a.txt": b"not wanted"}
    )
    [pair] = load_all(streams(tmp_path, config=StreamConfig(captions={"caption": 0.7, "alt_text": 0.3, "x": 5.0}))[0])
    assert pair.captions == {"a cup", "img 1", "img 2"}
    drawn = draw(pair)
    assert drawn["a cup"] / 2000 == pytest.approx(0.7, abs=0.03)
    assert drawn["img 1"] / 2000 == pytest.approx(0.15, abs=0.03)


def test_a_member_is_a_field_and_a_label_is_put_into_templates(tmp_path: Path) -> None:
    label = {"source": "s", "label": "Cup"}
    members = {"a.png": image_bytes(1), "a.caption": b"red\n", "b.jpg": image_bytes(2, "JPEG")}
    write_tar(tmp_path / "x.tar", members | {"b.json": json.dumps(label).encode()})
    captioned, labelled = load_all(streams(tmp_path)[0])
    assert captioned.captions == {"red"}
    assert labelled.captions == {text.lower() for texts in captions("cup").values() for text in texts}
    assert draw(labelled)["a photo of a cup."] > 0


def test_a_large_jpeg_is_decoded_no_larger_than_its_crop_needs(tmp_path: Path) -> None:
    write_tar(tmp_path / "x.tar", {"a.jpg": image_bytes(9, "JPEG", (800, 400)), "a.txt": b"nine"})
    [stream] = streams(tmp_path)
    shapes = [tuple(stream.load(0, side).image.shape) for side in (401, 200, 99, 1)]
    assert shapes == [(3, 400, 800), (3, 200, 400), (3, 100, 200), (3, 50, 100)]
    assert batches([stream], 1, image_size=64)(0).images.shape == (1, 3, 64, 64)


def test_a_bad_picture_gives_way_to_the_next_one_and_is_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_pairs(tmp_path / "x.tar", range(12), n3_png=image_bytes(3)[:50], n5_txt=b"\xff", n8_txt=b" ")
    make = batches(streams(tmp_path), 4, bad_share=0.01)
    seen = [make(step) for step in range(3)]
    assert 0 <= seen[0].left_out <= seen[1].left_out <= seen[2].left_out >= 3
    assert not {3, 5, 8} & {number for batch in seen for number in numbers(batch)}
    assert all(len(batch.images) == 4 for batch in seen)
    for name, reason in (("n3", "cannot be decoded"), ("n5", "captions cannot be read"), ("n8", "has no caption")):
        assert f"x.tar/{name}: " in caplog.text and reason in caplog.text
    [bad] = [step for step in range(3) if 3 in numbers_meant(make, step)]
    row = numbers_meant(make, bad).index(3)
    assert numbers(seen[bad])[row] == make.sampler.index(make.sampler.positions(bad)[row], later=1)


def numbers_meant(make: PairBatches, step: int) -> list[int]:
    return [index for _, index in make.sampler.batch(step)]


@pytest.mark.parametrize("text", ['{"label": ["cup"]}', "[" * 100_000])
def test_a_field_of_a_wrong_type_is_one_bad_sample(text: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    members = {f"n{number}.png": image_bytes(number) for number in range(4)}
    members |= {f"n{number}.json": b'{"label": "cup"}' for number in range(4)}
    write_tar(tmp_path / "x.tar", dict(sorted((members | {"n2.json": text.encode()}).items())))
    make = batches(streams(tmp_path), 4, bad_share=0.01)
    assert 2 in numbers_meant(make, 0) and 2 not in numbers(make(0))
    assert make(0).left_out and "skipped" in caplog.text and "n2" in caplog.text
    with pytest.raises(DataError, match="more than bad_share=0 of them"):
        batches(streams(tmp_path), 4, bad_share=0)(0)


def test_more_bad_samples_than_are_survived_end_the_run(tmp_path: Path) -> None:
    write_pairs(tmp_path / "x.tar", range(40), n3_png=b"", n5_png=b"?")
    make = batches(streams(tmp_path), 20, bad_share=0.002)
    with pytest.raises(DataError, match=r"3 samples of .*bad_share=0.002"):
        [make(step) for step in range(4)]
    bad = {f"n{number}_png": b"" for number in range(4)}
    write_pairs(tmp_path / "y.tar", range(4), **bad)
    with pytest.raises(DataError, match=r"8 samples in a row.*y\.tar/n"):
        batches(streams(tmp_path / "y.tar"), 1, bad_share=1.0)(0)


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ({"a.png": b"p", "b.jpg": b"p", "c.png": b""}, r"no images with captions in txt.*hold png \(2\), jpg \(1\)"),
        ({"a.txt": b"t", "a.mp4": b"v"}, r"no images with captions .*hold mp4 txt \(1\)"),
        ({}, "hold nothing"),
    ],
)
def test_shards_without_pairs_are_named_before_anything_is_trained(
    tmp_path: Path, members: dict[str, bytes], said: str, caplog: pytest.LogCaptureFixture
) -> None:
    write_tar(tmp_path / "bad.tar", members)
    write_pairs(tmp_path / "good.tar", range(4))
    with pytest.raises(DataError, match=rf"1 of 2 shards cannot be used.*skip_bad_shards.*bad\.tar: .*{said}"):
        streams(tmp_path)
    [stream] = streams(tmp_path, config=StreamConfig(skip_bad_shards=True))
    assert len(stream) == 4 and "bad.tar" in caplog.text
    with pytest.raises(DataError, match="none of the shards"):
        streams(tmp_path / "bad.tar", config=StreamConfig(skip_bad_shards=True))


def test_missing_and_damaged_shards(tmp_path: Path) -> None:
    path = write_pairs(tmp_path / "cut.tar", range(30))
    path.write_bytes(path.read_bytes()[:20_000])
    (tmp_path / "none.tar").write_bytes(b"no tar" * 1000)
    with pytest.raises(DataError, match=r"2 of 2 shards.*cut\.tar: cannot be read: damaged.*none\.tar: cannot be read"):
        streams(tmp_path)
    with pytest.raises(DataError, match=r"gone\.tar: cannot be opened"):
        streams(tmp_path / "gone.tar")
    with pytest.raises(DataError, match="no tar files found"):
        streams(tmp_path / "x*.tar")


def test_samples_without_a_caption_are_left_out_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_pairs(tmp_path / "x.tar", range(5), lone_png=image_bytes(99), other_txt=b"alone")
    [stream] = streams(tmp_path)
    assert len(stream) == 5 and "left out 2 samples of" in caplog.text


def test_a_shard_that_is_lost_mid_run_is_bad_samples(tmp_path: Path) -> None:
    path = write_pairs(tmp_path / "x.tar", range(5))
    [stream] = streams(tmp_path)
    path.unlink()
    with pytest.raises(MediaDecodeError, match=r"x\.tar, pair 2: .*cannot be opened"):
        stream.load(2, 1)
    write_pairs(path, range(6))
    with pytest.raises(MediaDecodeError, match="has changed since the run began"):
        stream.load(2, 1)


def test_tars_at_urls_by_glob_folder_and_braces(tmp_path: Path) -> None:
    for shard in range(3):
        path = write_pairs(tmp_path / f"{shard}.tar", range(shard, shard + 2))
        fsspec.filesystem("memory").pipe(f"/bucket/{shard}.tar", path.read_bytes())
    urls = [f"memory:///bucket/{shard}.tar" for shard in range(3)]
    assert Shards("memory://bucket").find() == Shards("memory://bucket/*.tar").find() == urls
    assert Shards("memory:///bucket/{0..2}.tar").find() == urls
    cached = Shards("simplecache::memory://bucket/[01].tar").find()
    assert cached == [f"simplecache::{url}" for url in urls[:2]]
    for place in ("memory://bucket", "simplecache::memory://bucket/{0..2}.tar"):
        [stream] = streams(place)
        assert sorted(int(pair.image[0, 0, 0]) for pair in load_all(stream)) == [0, 1, 1, 2, 2, 3]
    assert Shards(str(tmp_path)).find() == [str(tmp_path / f"{shard}.tar") for shard in range(3)]


def test_weights_are_written_behind_the_path() -> None:
    assert Shards.parse("s3://b/{0..9}.tar:0.25") == Shards("s3://b/{0..9}.tar", 0.25)
    assert Shards.parse("s3://b/x.tar") == Shards("s3://b/x.tar", 1.0)
    for wrong in ("x.tar:0", ""):
        with pytest.raises(ConfigError, match="PATH:WEIGHT"):
            Shards.parse(wrong)


def test_videos_give_uniform_frames(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "clips.tar", {"a.mp4": clip(count=30), "a.txt": b"numbers", "b.png": image_bytes(1)})
    (shard_set,) = open_shards([Shards(str(path))], StreamConfig(), ALONE, alone, frames=4)
    assert len(shard_set) == 1 and shard_set.sizes == [1]
    pair = shard_set.load(0, 32)
    assert pair.image.shape == (4, 3, HEIGHT, WIDTH) and pair.captions == {"numbers"}
    assert [number_of(Image.fromarray(frame.permute(1, 2, 0).numpy())) for frame in pair.image] == [0, 9, 19, 29]


@pytest.mark.parametrize("name", ["test.tar", "val/0.tar", "unseen/x.tar"])
def test_shards_of_another_split_are_refused(make_shard: Any, tmp_path: Path, name: str) -> None:
    path = make_shard(f"a/{name}", [("flowers", "rose")])
    with pytest.raises(DataError, match=rf"{name} is of the split '(test|val|unseen)'; it cannot be used as 'train'"):
        streams(path)


def test_a_shard_reads_as_webdataset_reads_it(tmp_path: Path) -> None:
    path = write_pairs(tmp_path / "x.tar", range(9))
    table = load_table(str(path), ("txt",))
    with path.open("rb") as stream:
        theirs = list(group_by_keys({"__url__": "", **file} for file in tar_file_iterator(stream)))
    assert table.keys == [sample["__key__"] for sample in theirs]
    for row, sample in enumerate(theirs):
        assert table.read(row, ("txt",)) == {"image": sample["png"], "txt": sample["txt"]}


def test_a_table_is_made_once_and_again_for_a_shard_that_changed(
    tmp_path: Path, caches: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    walk = shard_index.walk_tar
    monkeypatch.setattr(shard_index, "walk_tar", lambda stream, size: made.append(size) or walk(stream, size))
    path = write_pairs(tmp_path / "x.tar", range(5))
    first, again = streams(path)[0], streams(path)[0]
    assert made == [path.stat().st_size] and (len(first), len(again)) == (5, 5)
    write_pairs(path, range(6))
    assert len(streams(path)[0]) == 6 and len(made) == 2
    assert len(list(caches.rglob("*.parquet"))) == 2


def test_a_damaged_table_is_made_anew(tmp_path: Path, caches: Path) -> None:
    path, chance = write_pairs(tmp_path / "x.tar", range(5)), random.Random(2504)
    expected = [pair.captions for pair in load_all(streams(path)[0])]
    (table,) = caches.rglob("*.parquet")
    whole = table.read_bytes()
    for _ in range(40):
        at = chance.randrange(len(whole))
        table.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << chance.randrange(8)]) + whole[at + 1 :])
        load_table.cache_clear()
        try:
            assert [pair.captions for pair in load_all(streams(path)[0])] == expected
        except (DataError, MediaDecodeError):  # of what the checksums of its pages do not cover
            table.unlink()
    for odd in (b"", b"PAR1", whole[:-20]):
        table.write_bytes(odd)
        load_table.cache_clear()
        assert len(streams(path)[0]) == 5
