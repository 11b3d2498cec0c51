"""What is known of sources by their names."""

from __future__ import annotations

from pathlib import Path

from perception_encoder.data.captions import PHOTO, CaptionStyle
from perception_encoder.data.image_text import ImageTextSet
from perception_encoder.data.rules import HeldOut, SourceRules
from perception_encoder.data.streams import Shards, StreamConfig, open_shards
from perception_encoder.ranks import ALONE

PEN = CaptionStyle(drawn=True, plain=("a pen drawing of {}",))


def test_a_source_that_is_not_named_holds_photographs() -> None:
    rules = SourceRules(styles={"pen": PEN})
    assert (rules.style("pen"), rules.style("other"), rules.style(None)) == (PEN, PHOTO, PHOTO)


def test_readers_know_no_source_by_themselves(make_shard, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    rows = [("openmoji", "cat"), ("caltech101", "cannon"), ("caltech101", "ant")]
    path = make_shard("a/train.tar", rows)
    assert len(ImageTextSet.from_directory(path)) == 3
    (plain,) = open_shards([Shards(str(path))], StreamConfig(), ALONE, lambda value: [value])
    assert plain.sizes == [3]
    held_out = HeldOut(class_source="caltech101", classes=frozenset({"ant"}), find_classes=lambda path: {"ant"})
    rules = SourceRules(styles={"openmoji": PEN}, held_out=held_out)
    loaded = ImageTextSet.from_directory(path, rules=rules)
    assert [sample.label for sample in loaded] == ["cat", "cannon"] and "a pen drawing of a cat" in loaded[0].captions
    (guarded,) = open_shards([Shards(str(path))], StreamConfig(), ALONE, lambda value: [value], rules=rules)
    assert guarded.sizes == [2] and "a pen drawing of a cat" in guarded.load(0, min).captions
