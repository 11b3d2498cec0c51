"""Everything that computes for long, in small: each run resumes what an earlier one left in the directory."""

from __future__ import annotations

import os
import pickle
import signal
import traceback
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from perception_encoder.data.shard_index import load_table
from perception_encoder.evaluation.feature_cache import FeatureCache, encode_layers
from perception_encoder.evaluation.language.evaluators import QuestionEvaluator
from perception_encoder.evaluation.language.tasks import TASKS
from perception_encoder.files import is_temporary, temporary_beside
from perception_encoder.inference.output import EmbeddingWriter
from perception_encoder.layer_analysis.sweep import run_sweep
from perception_encoder.ranks import ALONE
from perception_encoder.runtime import cache
from perception_encoder.spatial_alignment.mask_teachers import TeacherCache
from perception_encoder.store import Records, Store
from perception_encoder.training.metrics import Metrics, Row
from perception_encoder.video_data_engine.config import EngineConfig
from perception_encoder.video_data_engine.journal import FRAMES, PROBE, REMEDY, STAGES, ClipRecord, Journal, clips_of
from perception_encoder.video_data_engine.outputs import write_captions, write_quarantine, write_shards
from perception_encoder.video_data_engine.run import read_engine_settings
from perception_encoder.video_dataset.features import compute_features
from tests.data.tars import image_bytes, write_pairs
from tests.evaluation.language.answerers import RuleAnswerer, colour_of, questions
from tests.inference.test_output import SETTINGS, batches, item, small_parts
from tests.layer_analysis.toys import LightnessTask, greys, named, toy_layers
from tests.video_data_engine.test_journal import RECORD, result
from tests.video_dataset.clips import fields, write_dataset
from tests.video_dataset.models import NumberEncoder

Run = Callable[[Path, Path, str], object]
"""Compute what is missing in a directory, from inputs; the value is a setting. Returns what must always be the same."""


@dataclass(frozen=True)
class User:
    """A user of the store."""

    run: Run
    lock: str = ""
    """Pattern of the file that its writer locks."""
    fixed: bool = False
    """Another setting is an error; otherwise it has results of its own."""
    files: str = "**/*"
    """Pattern of the files that are damaged."""
    editable: bool = False
    """Users may edit its files, which therefore have no checksums."""


def files_of(path: Path) -> list[tuple[str, bytes]]:
    paths = sorted(path.rglob("*")) if path.is_dir() else [path]
    return [(str(one.relative_to(path)), one.read_bytes()) for one in paths if one.is_file()]


def embeddings(inputs: Path, directory: Path, setting: str, name: str) -> object:
    out = directory / name
    if not out.exists() or out.with_name(f"{name}.parts").exists():  # else it was killed after its last step
        with small_parts(), EmbeddingWriter(out, {**SETTINGS, "weight_hash": setting}) as writer:
            rest = [int(one.id.removesuffix(".jpg")) for one in writer.resume(map(item, range(10)))]
            for batch in batches(rest):
                writer.add(batch)
            writer.finish()
    return files_of(out)


def captions(inputs: Path, directory: Path, setting: str, name: str) -> object:
    images = sorted((inputs / "images").iterdir())
    found = RuleAnswerer(colour_of).caption(images, out=directory / name, prompt=setting, batch_size=1)
    return files_of(directory / name), found


def answers(inputs: Path, directory: Path, setting: str) -> object:
    model = RuleAnswerer(colour_of)
    model.name = setting
    evaluator = QuestionEvaluator(TASKS["vqav2"], questions(4), directory / "answers.jsonl")
    values = [score.value for score in evaluator.run(model)]
    return values, files_of(directory / "answers.jsonl")


def engine(inputs: Path, directory: Path, setting: str) -> object:
    """Two clips, one after the other, without the processes of a real run: test_stopped.py kills these."""
    config = EngineConfig(captioner=f"hf:{setting}")
    with Store(directory, {"config": asdict(config), "prompts": {"mine": "Look."}}, remedy=REMEDY):
        journal = Journal(directory)
        journal.add_model("summary", {"name": "llm"})
        for record in (RECORD, ClipRecord(key="b", item=RECORD.item)):
            record = journal.restore(record)
            for stage in STAGES[len(record.results) :]:
                outcome = result(stage, (b"first", b"second") if stage == FRAMES else ())
                value = {**outcome.value, **({"video": record.key} if stage == FRAMES else {})}
                outcome = replace(outcome, key=record.key, value=value)
                journal.add(outcome)
                (record,) = record.after(outcome)
            if PROBE in record.results:
                clips_of(record)
        write_captions(directory, journal)
        write_quarantine(directory, journal)
        write_shards(directory, journal, {})
        read_engine_settings(directory)
    return files_of(directory / "captions.parquet")


def video_features(inputs: Path, directory: Path, setting: str) -> object:
    encoder = NumberEncoder()
    encoder.name = setting
    table = compute_features(inputs / "videos", directory, encoder)
    return table.keys, table.values.tobytes(), table.frames.tobytes()


def layer_features(inputs: Path, directory: Path, setting: str) -> object:
    encoder, cache = toy_layers(weights=setting), FeatureCache(directory=directory)
    features = encode_layers(encoder, greys(11, broken=(2, 9)), [0, 2], cache, chunk=4)
    layers = [features[layer] for layer in (0, 2)]
    return [(np.array(one.tokens).tobytes(), one.rows.tolist(), str(one.failures)) for one in layers]


def layer_scores(inputs: Path, directory: Path, setting: str) -> object:
    sweep = run_sweep(toy_layers(weights=setting), named(LightnessTask()), FeatureCache(directory=directory), [0, 2])
    return [(curve.metric, [score.to_dict() for score in curve.scores.values()]) for curve in sweep.curves]


def masks(inputs: Path, directory: Path, setting: str) -> object:
    with closing(TeacherCache(directory / "masks", {"teacher": setting}, create=True)) as cached:
        for copy in range(3):
            if ("a", copy) not in cached:
                cached.put("a", copy, torch.full((4, 3), copy))
        return [cached.get("a", copy, 4, "masks of a").tolist() for copy in range(3)]


def arrays(inputs: Path, directory: Path, setting: str) -> object:
    with Store(directory / "features", {"tower": setting}) as store:
        cached = store.arrays("features")
        for number, key in enumerate("abc"):
            if key not in cached:
                cached.put(key, np.full((2, 3), number, np.float16))
        return [cached[key].tolist() for key in "abc"]


def metrics(inputs: Path, directory: Path, setting: str) -> object:
    done = len(Records(directory / "metrics.jsonl", Row, "remove the line, or the file", writable=False).rows)
    report = Metrics(directory, done, ALONE)
    for step in range(done + 1, 5):
        report.write({"step": step, "loss": 1 / step})
    report.close()
    return files_of(directory / "metrics.jsonl"), files_of(directory / "metrics.csv")


def compiled(inputs: Path, directory: Path, setting: str) -> object:
    os.environ["XDG_CACHE_HOME"] = str(directory)
    key = cache.Key(model="m", weights=setting, config={}, tower="image", precision="float32")

    def write(path: Path) -> dict[str, Any]:
        (path / cache.MODEL).write_text("model")
        (path / cache.WEIGHTS).write_text("weights")
        return {"output": [1.0]}

    entry = cache.find(key) or cache.store(key, write)
    return entry.values, files_of(entry.path)


def shard_index(inputs: Path, directory: Path, setting: str) -> object:
    os.environ["XDG_CACHE_HOME"] = str(directory)
    load_table.cache_clear()
    table = load_table(str(inputs / "train.tar"), ("txt",))
    return table.keys, table.starts.tolist()


USERS = {
    "embeddings, Parquet": User(partial(embeddings, name="out.parquet"), "out.parquet.parts/lock", fixed=True),
    "embeddings, directory": User(partial(embeddings, name="out"), "out.parts/lock", fixed=True),
    "captions, JSONL": User(partial(captions, name="out.jsonl"), "out.jsonl", fixed=True, editable=True),
    "captions, Parquet": User(partial(captions, name="out.parquet"), "out.parquet.jsonl", fixed=True, editable=True),
    "answers": User(answers, "answers.jsonl", fixed=True, editable=True),
    "engine": User(engine, "lock", fixed=True),
    "features of videos": User(video_features, "*/lock"),
    "features of layers": User(layer_features, "*/lock"),
    "scores of layers": User(layer_scores, "scores/*/lock", files="scores/**/*"),
    "masks of a teacher": User(masks, "masks/lock", fixed=True),
    "features of conversations": User(arrays, "features/lock", fixed=True),
    "metrics of a run": User(metrics, editable=True),
    "compiled models": User(compiled),
    "table of a shard": User(shard_index),
}


def write_inputs(inputs: Path) -> None:
    """Write what the users read."""
    (inputs / "images").mkdir(parents=True)
    for number in range(3):
        (inputs / "images" / f"{number}.png").write_bytes(image_bytes(80 * number))
    write_dataset(inputs / "videos", {"train": [[("a", fields("x"))], [("b", fields("x"))]]})
    write_pairs(inputs / "train.tar", range(3))


STEPS = ("fsync", "replace", "rename", "rmdir")
"""Functions of `os` before which a process is killed."""


def work(name: str, inputs: Path, root: Path, kills: int) -> None:
    """Run a user in ROOT/whole, then in directories where it is killed before some steps, and twice in ROOT/half.

    Raises AssertionError for another result, and for temporary files that stay. Writes the result to ROOT/result.
    """
    whole, steps = _run(name, inputs, root / "whole")
    (root / "result").write_bytes(pickle.dumps(whole))
    for kill in sorted({1 + (steps - 1) * number // (kills - 1) for number in range(kills)}):
        directory = root / f"killed-{kill}"
        assert _fork(name, inputs, directory, kill) == -signal.SIGKILL
        _fork(name, inputs, directory, 2)  # and at once again
        assert _fork(name, inputs, directory) == 0
        found = pickle.loads(directory.with_suffix(".result").read_bytes())
        assert found == whole, f"killed before step {kill} of {steps}: {found}, not {whole}"
        temporary_beside(directory / "next")  # as the next writer there does
        assert [path for path in directory.rglob("*") if is_temporary(path)] == []
    _fork(name, inputs, root / "half", max(2, steps * 2 // 3))


def _fork(name: str, inputs: Path, directory: Path, kill: int = 0) -> int:
    """Run a user in a process that ends before its step `kill`; return its exit status."""
    child = os.fork()
    if not child:
        try:
            found, _ = _run(name, inputs, directory, kill)
            directory.with_suffix(".result").write_bytes(pickle.dumps(found))
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _run(name: str, inputs: Path, directory: Path, kill: int = 0) -> tuple[object, int]:
    """Run a user; return its result and the number of its steps."""
    count = 0

    def counted(function: Callable[..., object]) -> Callable[..., object]:
        def step(*args: object, **options: object) -> object:
            nonlocal count
            count += 1
            if count == kill:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **options)

        return step

    directory.mkdir(exist_ok=True)
    with ExitStack() as stack:
        for function in STEPS:
            stack.enter_context(patch.object(os, function, counted(getattr(os, function))))
        found = USERS[name].run(inputs, directory, "one")
    return found, count
