"""Damaged files of every format that is read: each works, or gives one line that names the file and what to do.

A format is a good example and how it is read. `PE_DAMAGED_INPUTS=300` damages each so often; whoever reads a new
format adds a line to `FORMATS`.
"""

from __future__ import annotations

import json
import os
import random
import re
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from perception_encoder.data.conversations import open_conversations
from perception_encoder.data.shard_index import load_table
from perception_encoder.datasets.captioned import load_benchmark, load_captions
from perception_encoder.datasets.classified import load_tasks
from perception_encoder.datasets.instances import read_instance_splits
from perception_encoder.datasets.pe_video import read_videos_of
from perception_encoder.datasets.rgbd import read_depth_splits
from perception_encoder.datasets.training_files import has_split, read_split
from perception_encoder.dense_prediction.dense_model import load_dense_model
from perception_encoder.errors import InputError, PerceptionEncoderError
from perception_encoder.evaluation.classification.zero_shot import read_labels
from perception_encoder.evaluation.results import from_json, full_table, read_text, to_json
from perception_encoder.exports.layouts import write_layout_directory
from perception_encoder.formats.shards import ShardSample, read_shard, write_members
from perception_encoder.formats.tables import read_rows
from perception_encoder.inference.load import load, load_layers
from perception_encoder.inference.model_spec import ModelSpec
from perception_encoder.inference.output_formats import read_embeddings
from perception_encoder.language_models import decoder
from perception_encoder.language_models.load import load_language_model
from perception_encoder.models.checkpoints.weights import create_model, load_model, write_checkpoint
from perception_encoder.models.defaults import default_model
from perception_encoder.preprocess.documents import open_pdf_pages
from perception_encoder.preprocess.image import open_image
from perception_encoder.preprocess.video import read_frames
from perception_encoder.search.storage.store import IndexStore
from perception_encoder.training import checkpoint
from perception_encoder.video_data_engine.config import load_prompt
from perception_encoder.video_data_engine.videos import read_metadata_fields
from perception_encoder.video_dataset.annotation import export
from perception_encoder.video_dataset.annotation.export import export_dataset, export_tasks
from perception_encoder.video_dataset.annotation.progress import count_progress
from perception_encoder.video_dataset.annotation.project import AnnotationProject
from perception_encoder.video_dataset.annotation.work import Edit, next_task, submit
from perception_encoder.video_dataset.dataset import describe_dataset
from perception_encoder.video_dataset.selection import read_hand_scores
from perception_encoder.video_dataset.tables import read_video_table
from tests.clips import clip
from tests.damage import copy_tree, damage, flip_bit
from tests.data.tars import image_bytes, write_pairs, write_tar
from tests.datasets import annotation_files
from tests.models.small import small_clip
from tests.pdfs import pdf

INPUTS = int(os.environ.get("PE_DAMAGED_INPUTS", "14"))


@dataclass(frozen=True)
class Format:
    """A format of files."""

    write: Callable[[Path], object]
    """Write a good example into an empty directory."""
    read: Callable[[Path], object]
    """Read and use all of it; errors of single rows may be returned."""
    files: str = "*"
    """Pattern of the files that are damaged, however deep."""
    needs: tuple[str, ...] = ()
    """Modules without which the test is skipped."""
    few: bool = False
    """Damage half as many, because reading takes long."""
    checked: bool = False
    """The files have checksums: what `read` returns is right, or an error."""


# ---- what is read


def embed_parquet(directory: Path, name: str = "out.parquet") -> None:
    from tests.inference.test_output import write

    write(directory / name)


def read_vectors(directory: Path, name: str) -> object:
    found = read_embeddings(directory / name)
    return found and (found[0].to_pylist(), found[1].tolist(), found[2])


def write_index(directory: Path) -> None:
    from tests.search.indexes import update_folder

    write_checkpoint(create_model("PE-Core-N16-128"), directory / "nano.safetensors")
    (directory / "photos").mkdir()
    for number in range(3):
        (directory / "photos" / f"{number}.png").write_bytes(image_bytes(60 * number))
    update_folder(directory / "photos", directory / "nano.safetensors")


def read_index(directory: Path) -> None:
    index = IndexStore.open(directory / "photos")
    len(list(index.rows()))
    vector = np.full(index.settings["dimension"], 1, np.float32)
    index.nearest(vector / np.linalg.norm(vector), 2)


def write_weights(directory: Path, name: str) -> None:
    write_checkpoint(create_model("PE-Core-N16-128"), directory / name, half=True)


def load_weights(directory: Path, name: str) -> None:
    load_model(directory / name)


def write_run(directory: Path) -> None:
    from tests.training.test_checkpoint import write_checkpoint

    write_checkpoint(directory)


def resume_run(directory: Path) -> None:
    from tests.training.test_checkpoint import model_and_optimizer

    model, optimizer = model_and_optimizer()
    checkpoint.resume_run(directory, model, optimizer, "a")
    checkpoint.load_weights(directory, 1, model)


def write_head(directory: Path, task: str) -> None:
    from tests.dense_prediction.test_dense_model import write

    write(directory / "head.safetensors", task)


def load_head(directory: Path) -> None:
    from tests.dense_prediction.test_dense_model import tower
    from tests.dense_training.datasets import read_head

    path = directory / "head.safetensors"
    info, tensors = read_head(path)
    load_dense_model(path, info, tensors, tower())


def write_result(directory: Path) -> None:
    from tests.evaluation.test_results import RESULT

    (directory / "result.json").write_text(to_json(RESULT))


def read_result(directory: Path) -> None:
    result = from_json(read_text(directory / "result.json"), "result.json")
    full_table(result)
    to_json(result)


def write_project(directory: Path) -> None:
    from tests.video_dataset.clips import small_dataset

    project = AnnotationProject(small_dataset(directory), now=lambda: 1e9)
    project.set_double(0)
    project.update()
    task = next_task(project, "anna", "tab")
    assert task is not None
    submit(project, "anna", task.id, Edit(caption="A boat.", rating=2, session="tab", sequence=1))
    project.close()


def use_project(directory: Path) -> None:
    project = AnnotationProject(directory, now=lambda: 1e9)
    try:
        project.update()
        next_task(project, "ben", "tab")
        count_progress(project)
        export_dataset(project, directory / "exported")
    finally:
        project.close()


def write_videos(directory: Path) -> None:
    from tests.video_dataset.clips import fields, write_dataset

    videos = [(f"v{n}", fields(f"A boat {n}.", human_caption=f"A red boat {n}.")) for n in range(3)]
    write_dataset(directory, {"test": [videos]})


def read_videos(directory: Path) -> None:
    load_benchmark(directory)
    describe_dataset(read_videos_of(directory))
    for record in read_videos_of(directory):
        record.video.read(record.where)


def write_shard(directory: Path) -> None:
    write_pairs(directory / "train.tar", range(4), n1_json=b'{"caption": "one", "label": "x"}')


def stream_shard(directory: Path) -> None:
    table = load_table(str(directory / "train.tar"), ("txt", "json"))
    for row in range(len(table.keys)):
        table.read(row, ("txt", "json"))


def write_labelled(directory: Path) -> None:
    from synthetic.shards import write_shard

    images = [ShardSample(f"k{n}", "png", image_bytes(n), {"source": "toys", "label": f"l{n % 2}"}) for n in range(4)]
    write_shard(directory / "test.tar", images)


def read_labelled(directory: Path) -> None:
    list(read_shard(directory / "test.tar"))
    load_tasks(directory, "test")


def write_conversations(directory: Path, name: str) -> None:
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A cup."}]
    rows = [{"id": str(n), "image": "a.png", "conversations": turns} for n in range(3)]
    (directory / "a.png").write_bytes(image_bytes(1))
    if name.endswith(".tar"):
        members = {f"k{n}.png": image_bytes(n) for n in range(3)}
        members |= {f"k{n}.json": json.dumps({"conversations": turns}).encode() for n in range(3)}
        write_tar(directory / name, dict(sorted(members.items())))
    elif name.endswith(".parquet"):
        cells = [{"images": [{"bytes": image_bytes(n)}], "conversations": turns} for n in (1, 2)]
        pq.write_table(pa.Table.from_pylist(cells), directory / name)
    else:
        lines = [json.dumps(row) for row in rows]
        (directory / name).write_text("\n".join(lines) if name.endswith("l") else f"[{','.join(lines)}]")


def read_conversations(directory: Path, name: str) -> None:
    for sample in open_conversations(directory / name if not name.endswith(".tar") else directory, skip_bad=True):
        for media in sample.media:
            media.read() if hasattr(media, "read") else media


def write_captions(directory: Path, name: str) -> None:
    rows: list[dict[str, object]] = [{"path": f"{n}.png", "caption": f"number {n}"} for n in range(3)]
    from tests.formats.test_tables import write_table

    for number in range(3):
        (directory / f"{number}.png").write_bytes(image_bytes(number))
    write_table(str(directory / name), rows)


def read_captions(directory: Path, name: str) -> None:
    rows = [row for row in read_rows(directory / name) if isinstance(row, PerceptionEncoderError)]
    has_split(directory / name, "val")
    read_split(directory / name, "train")
    load_captions(directory / name)
    if rows:
        raise rows[0]


def write_pdf(directory: Path) -> None:
    (directory / "a.pdf").write_bytes(pdf([(60, 40), (40, 60)]))


def read_pdf(directory: Path) -> None:
    open_pdf_pages(directory / "a.pdf", tile=28)


def write_media(directory: Path) -> None:
    (directory / "a.mp4").write_bytes(clip(12))
    for kind in ("png", "jpeg", "webp", "gif", "tiff", "bmp"):
        (directory / f"a.{kind}").write_bytes(image_bytes(3, kind))


def read_media(directory: Path) -> None:
    for path in sorted(directory.iterdir()):
        read_frames(path, frames=3) if path.suffix == ".mp4" else open_image(path)


def write_scores(directory: Path) -> None:
    (directory / "scores.csv").write_text("key,score\ntrain/1,2.5\ntrain/2,5\n")
    (directory / "names.csv").write_text("key,category\ntrain/1,Water\ntrain/2,Sport\n")


def read_scores(directory: Path) -> None:
    read_hand_scores(directory / "scores.csv")
    read_video_table(directory / "names.csv")


def write_tasks(directory: Path) -> None:
    write_project(directory)
    project = AnnotationProject(directory)
    export_tasks(project, directory / "tasks.json")
    project.close()


def import_tasks(directory: Path) -> None:
    project = AnnotationProject(directory)
    try:
        export.import_tasks(project, directory / "tasks.json")
    finally:
        project.close()


def write_timm(directory: Path) -> None:
    model = small_clip()
    model.name = "PE-Core-N16-128"
    write_layout_directory(model, directory / "model", "timm")


def load_timm(directory: Path) -> None:
    encoder = load(f"timm:local-dir:{directory / 'model'}").variant(transform="crop")
    encoder.encode_images([Image.new("RGB", (20, 20))])


def write_decoder(directory: Path) -> None:
    from tests.tiny_language_models import write_tiny_decoder

    write_tiny_decoder(directory)


def write_perception_lm(directory: Path) -> None:
    from tests.language_models.test_perception_lm import perception_lm
    from tests.tiny_language_models import byte_tokenizer

    perception_lm().save_pretrained(directory / "plm")
    byte_tokenizer().save_pretrained(directory / "plm")


def load_perception_lm(directory: Path) -> None:
    load_language_model(ModelSpec(directory / "plm", "cpu", precision="float32"))


def write_language(directory: Path) -> None:
    from tests.language_models.test_weights import write_file

    write_file(directory / "model.safetensors")


def load_language(directory: Path) -> None:
    load_language_model(ModelSpec(directory / "model.safetensors", "cpu", precision="float32"))


def write_depths(directory: Path) -> None:
    from tests.evaluation.layers import png

    depth = png(np.full((10, 12), 1500, np.uint16))
    members = [
        (f"a/{n}.{kind}", image_bytes(n) if kind == "png" else depth) for n in range(3) for kind in ("png", "depth.png")
    ]
    for split in ("train", "test"):
        write_members(directory / f"{split}.tar", members)


def read_depths(directory: Path) -> None:
    for part in read_depth_splits(directory):
        for index in range(len(part.keys)):
            part.depth(index)


def write_objects(directory: Path) -> None:
    from tests.datasets.drawn import write_yolo

    write_yolo(directory, {"train": 2, "val": 2})


def read_objects(directory: Path) -> None:
    for part in read_instance_splits(directory):
        part.truth(range(len(part.keys)))
        for index in range(len(part.keys)):
            part.open(index)
            part.instances(index)


def write_choice(directory: Path) -> None:
    (directory / "perception-encoder").mkdir()
    (directory / "perception-encoder" / "config.json").write_text('{"model": "builtin"}')


def read_choice(directory: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(directory))
        default_model()


def write_words(directory: Path) -> None:
    (directory / "labels.txt").write_text("cat\ndog\n")
    (directory / "prompt.txt").write_text("Describe $title in one sentence.\n")
    (directory / "clip.info.json").write_text('{"title": "A cup", "tags": ["red", "cup"], "description": "x"}')


def read_words(directory: Path) -> None:
    read_labels(f"@{directory / 'labels.txt'}")
    load_prompt(str(directory / "prompt.txt"))
    read_metadata_fields(directory / "clip.info.json", {}, "text")


def write_open_clip(directory: Path) -> None:
    from tests.models.external.embedders import save_open_clip

    save_open_clip(directory)


def load_open_clip(directory: Path) -> None:
    encoder = load(f"open_clip:local-dir:{directory}")
    encoder.encode_images([Image.new("RGB", (20, 20))])
    encoder.encode_texts(["a cup"])


def write_transformers(directory: Path) -> None:
    from tests.models.external.samples import save_transformer

    save_transformer("ViT", directory / "vit")


def load_transformers(directory: Path) -> None:
    load_layers(f"hf:{directory / 'vit'}", "cpu").encode_layers([Image.new("RGB", (20, 20))], [0], (16, 16))


def write_gguf(directory: Path) -> None:
    import gguf

    writer = gguf.GGUFWriter(str(directory / "tiny.gguf"), "llama")
    for name, value in {
        "block_count": 1,
        "context_length": 32,
        "embedding_length": 8,
        "feed_forward_length": 8,
    }.items():
        getattr(writer, f"add_{name}")(value)
    writer.add_head_count(2)
    writer.add_layer_norm_rms_eps(1e-5)
    words = ["<unk>", "<s>", "</s>", "a", "b", "ab"]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(words)
    writer.add_token_types([1] * len(words))
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template("{{ messages[0].content }}")
    square = {"attn_q": (8, 8), "attn_k": (8, 8), "attn_v": (8, 8), "attn_output": (8, 8)}
    wide = {"ffn_gate": (8, 8), "ffn_up": (8, 8), "ffn_down": (8, 8), "attn_norm": (8,), "ffn_norm": (8,)}
    tensors = {f"blk.0.{name}": shape for name, shape in {**square, **wide}.items()}
    for name, shape in {**tensors, "token_embd": (6, 8), "output_norm": (8,), "output": (6, 8)}.items():
        writer.add_tensor(f"{name}.weight", np.ones(shape, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def load_gguf(directory: Path) -> None:
    decoder.load_decoder(directory / "tiny.gguf")


def write_webdataset(directory: Path) -> None:
    pairs = [(f"k{n}.png", image_bytes(n)) if kind else (f"k{n}.cls", b"%d" % n) for n in range(3) for kind in (1, 0)]
    members = dict(pairs)
    write_tar(directory / "test" / "0.tar", members)
    write_tar(directory / "flat" / "0.tar", {name.replace("cls", "txt"): member for name, member in members.items()})
    (directory / "classnames.txt").write_text("cat\ndog\ncow\n")


def read_webdataset(directory: Path) -> None:
    load_tasks(directory, "test")
    load_captions(directory / "flat")


FORMATS: dict[str, Format] = {
    "embeddings, Parquet": Format(embed_parquet, partial(read_vectors, name="out.parquet"), checked=True),
    "embeddings, clip-retrieval": Format(
        partial(embed_parquet, name="out"), partial(read_vectors, name="out"), checked=True
    ),
    "embeddings, Lance": Format(
        partial(embed_parquet, name="out.lance"), partial(read_vectors, name="out.lance"), needs=("lancedb",)
    ),
    "index": Format(write_index, read_index, "photos/.pe-index/**/*", few=True),
    "weights, safetensors": Format(
        partial(write_weights, name="a.safetensors"), partial(load_weights, name="a.safetensors"), few=True
    ),
    "weights, pt": Format(partial(write_weights, name="a.pt"), partial(load_weights, name="a.pt"), few=True),
    "checkpoint of a run": Format(write_run, resume_run, few=True),
    **{
        f"head, {task}": Format(partial(write_head, task=task), load_head, needs=("torchvision", "transformers"))
        for task in ("depth", "segmentation", "detection", "detr")
    },
    "result of an evaluation": Format(write_result, read_result),
    "annotation project": Format(write_project, use_project, "*.sqlite"),
    "tasks of Label Studio": Format(write_tasks, import_tasks, "*.json"),
    "videos": Format(write_videos, read_videos),
    "scores of videos": Format(write_scores, read_scores),
    "shard": Format(write_shard, stream_shard),
    "labelled shard": Format(write_labelled, read_labelled),
    "tars of CLIP_benchmark": Format(write_webdataset, read_webdataset),
    "images and depths": Format(write_depths, read_depths),
    "objects, YOLO": Format(write_objects, read_objects, needs=("faster_coco_eval",)),
    **{
        f"conversations, {name}": Format(
            partial(write_conversations, name=name), partial(read_conversations, name=name), name
        )
        for name in ("a.jsonl", "a.json", "train.parquet", "train.tar")
    },
    **{
        f"captions, {name}": Format(partial(write_captions, name=name), partial(read_captions, name=name), name)
        for name in ("a.csv", "a.tsv", "a.jsonl", "a.parquet")
    },
    "PDF": Format(write_pdf, read_pdf, needs=("pypdfium2",)),
    "images and videos": Format(write_media, read_media),
    "directory of timm": Format(write_timm, load_timm, needs=("timm",)),
    "language model of transformers": Format(write_decoder, decoder.load_decoder, needs=("transformers",)),
    "Perception-LM": Format(write_perception_lm, load_perception_lm, needs=("transformers", "timm")),
    "directory of open_clip": Format(write_open_clip, load_open_clip, needs=("open_clip",)),
    "directory of transformers": Format(write_transformers, load_transformers, needs=("transformers",)),
    "GGUF": Format(write_gguf, load_gguf, needs=("transformers", "gguf", "accelerate")),
    "language model": Format(
        write_language,
        load_language,
        "model.safetensors",
        needs=("transformers",),
        few=True,
    ),
    "words": Format(write_words, read_words),
    "chosen model": Format(write_choice, read_choice),
}


def annotation_formats() -> Iterator[tuple[str, Format]]:
    def add(name: str, content: bytes, read: Callable[[Path], object]) -> Format:
        files = name.replace(".json", ".tar") if name == "val.json" else "*.tar" if name == "objects.json" else name
        needs = ("faster_coco_eval",) if name == "annotations.json" else ()
        return Format(lambda path: annotation_files.prepare(path, name, content), read, files, needs)

    for kind, (name, value, read) in annotation_files.JSON.items():
        yield f"annotations, {kind}", add(name, annotation_files.encoded(name, value), read)
    for kind, (name, text, read) in annotation_files.TEXT.items():
        yield f"text, {kind}", add(name, text.encode(), read)


FORMATS |= dict(annotation_formats())


# ---- the test


def problem(error: BaseException, path: Path, root: Path) -> str | None:
    """What is wrong with an error over a damaged file, if anything."""
    if not isinstance(error, PerceptionEncoderError):
        frames = [
            frame for frame in traceback.extract_tb(error.__traceback__) if "perception_encoder" in frame.filename
        ]
        last = frames[-1] if frames else None
        where = f"{Path(last.filename).name}:{last.lineno}" if last else "?"
        return f"{type(error).__name__} at {where}: {str(error)[:150]}"
    first, *more = str(error).split("\n")
    if any(not line.startswith("  ") for line in more):
        return f"more than one line: {str(error)[:300]}"
    if re.search(r"\[Errno|/[\w.-]+\.(?:rs|c|cc|cpp|h):\d", str(error)):
        return f"quotes a number of the system, or another machine's source: {str(error)[:300]}"
    relative = path.relative_to(root)
    names = {root.name, relative.name, relative.stem, *relative.parts[:-1]}
    if not any(name in str(error) for name in names) and not isinstance(error, InputError):
        return f"does not name {relative}: {type(error).__name__}: {first[:200]}"
    return None


def write_example(known: Format, good: Path, root: Path) -> tuple[object, list[Path]]:
    """Write an example twice; return what is read of it, and the files to damage, relative to it."""
    for module in known.needs:
        pytest.importorskip(module)
    good.mkdir()
    known.write(good)
    files = sorted(path.relative_to(good) for path in good.rglob(known.files) if path.is_file())
    assert files, known.files
    copy_tree(good, root)
    return known.read(root), files


@pytest.mark.parametrize("name", FORMATS)
def test_damaged_files(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    known, good, root = FORMATS[name], tmp_path / "good", tmp_path / "example"
    _, files = write_example(known, good, root)
    problems = {}
    for number in range(INPUTS // 2 if known.few else INPUTS):
        draw = random.Random(f"{name} {number}")
        copy_tree(good, root)
        path = root / draw.choice(files)
        kind = damage(path, draw, number)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                known.read(root)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a panic of another library is one, too
            if found := problem(error, path, root):
                problems[f"{number} {path.relative_to(root)} {kind}"] = found
    assert not problems, f"{len(problems)} of {INPUTS}:\n" + "\n".join(f"{k}: {v}" for k, v in problems.items())


@pytest.mark.parametrize("name", [name for name, known in FORMATS.items() if known.checked])
def test_a_changed_bit_is_not_read_as_data(name: str, tmp_path: Path) -> None:
    known, good, root = FORMATS[name], tmp_path / "good", tmp_path / "example"
    (whole, files), refused, problems = write_example(known, good, root), 0, []
    for number in range(5 * INPUTS):
        draw = random.Random(f"{name} {number}")
        copy_tree(good, root)
        path = root / draw.choice(files)
        changed = flip_bit(path, draw)
        try:
            if known.read(root) not in (whole, None):  # None: not a file of embeddings
                problems.append(changed)
        except PerceptionEncoderError as error:
            refused += 1
            problems += [f"{changed}: {found}"] if (found := problem(error, path, root)) else []
    assert not problems, f"{len(problems)} of {5 * INPUTS}:\n" + "\n".join(problems)
    assert refused > INPUTS
