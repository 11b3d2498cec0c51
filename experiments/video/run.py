"""Table 2 and figure 6 of the paper in small: captions of an engine, and what finetuning on them adds.

The engine captions rendered clips with the built-in language model; a simulated annotator refines 500 captions; the
captioner is finetuned on these, and captions all clips again. Then the built-in encoder is finetuned on clips with
captions of each kind.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from experiments.differences import item_error
from experiments.video.blending import Blender
from experiments.video.captions import Captions, caption, first_captioner, refined_captioner
from experiments.video.clips import Clip, write_clips
from experiments.video.evaluation import ClipTasks, VideoEvaluation
from experiments.video.finetuning import before_finetuning, evaluate_arm, train_arm, write_arm
from perception_encoder.errors import DataError
from perception_encoder.evaluation.statistics.scores import (
    ItemScores,
    estimate,
    estimate_difference,
    measure,
    measure_all,
)
from perception_encoder.files import write_json
from perception_encoder.language_models.decoder import SMOLLM2
from perception_encoder.models.memory import keep_freed_memory
from perception_encoder.progress import Track, untracked
from synthetic.video_dataset.caption_accuracy import score_captions
from synthetic.video_dataset.simulation import SimulatedAnnotator

NOTHING, METADATA, VIDEO, UNREFINED, ALL = (
    *("nothing", "title and description", "+ video caption", "+ frames, captioner not refined", "+ frames: all"),
)
ARMS = (METADATA, VIDEO, UNREFINED, ALL)
COMPARED = ((METADATA, NOTHING), (VIDEO, METADATA), (ALL, VIDEO), (ALL, UNREFINED), (ALL, NOTHING))
"""Pairs of arms whose difference the page shows."""
FIRST, REFINED, FRAMES, SUMMARY, BLEND = (
    *("first captioner", "refined captioner", "frame captions", "summary by SmolLM2-135M", "blend"),
)
NEW_CLIPS, NEW_OBJECTS = "new clips", "new objects"


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much is captioned, trained and evaluated."""

    refined: int = 500
    """Clips whose captions are refined; they are the first of the dataset."""
    refinement_steps: int = 160
    train: int = 1000
    """Clips to finetune on, the first of the dataset; the others of `train` are evaluated on."""
    growth: tuple[int, ...] = (250, 500)
    """Smaller numbers of clips, all captions."""
    summaries: int = 100
    """Clips that SmolLM2 summarises too."""
    steps: int = 160
    seeds: tuple[int, ...] = (0, 1)


def reproduce_video(
    result: Path,
    runs: Path,
    dataset: Path,
    photos: Path | None,
    sizes: Sizes | None = None,
    track: Track = untracked,
    jobs: int = 1,
) -> dict[str, Any]:
    """Run what is not cached in `runs`, write the whole result as JSON, and return it.

    `dataset`: one of `python -m synthetic.video_dataset`. `photos`: labelled test photographs. `jobs`: finetunings at a
    time. Raises DataError for too few clips, and what the engine and the finetunings do.
    """
    sizes = sizes or Sizes()
    clips = {split: write_clips(dataset, split, runs / "clips" / split) for split in ("train", "test")}
    if len(clips["train"]) <= sizes.train:
        raise DataError(f"{dataset} has {len(clips['train'])} clips in train; give it more than {sizes.train}")
    experiment = _Experiment(runs, clips["train"], clips["test"], sizes, photos, track, jobs)
    captions = experiment.captions()
    scores = experiment.finetune(captions)
    value = {
        "sizes": asdict(sizes),
        "clips": {NEW_CLIPS: len(experiment.held_out), NEW_OBJECTS: len(experiment.test)},
        "classes": len(experiment.classes),
        "captions": experiment.caption_rows(captions),
        "table": [_row(name, scores) for name in _metrics(scores)],
        "growth": [_growth_row(name, scores, sizes) for name in _metrics(scores)],
    }
    write_json(result, value, indent=1)
    return value


Trained = tuple[str, int]
"""An arm, and the number of its clips; 0 for the built-in model."""
Task = tuple[Path, Path, int, int]
"""Shard, directory, steps and seed of a finetuning."""
Scores = dict[Trained, dict[str, list[ItemScores]]]
"""By what was trained, and by metric: a score for each seed."""


@dataclass(frozen=True)
class _Experiment:
    runs: Path
    train: Sequence[Clip]
    """All of the split, those to evaluate on too."""
    test: Sequence[Clip]
    sizes: Sizes
    photos: Path | None
    track: Track
    jobs: int

    @property
    def held_out(self) -> Sequence[Clip]:
        return self.train[self.sizes.train :]

    @property
    def classes(self) -> list[str]:
        return _classes([*self.train, *self.test])

    def captions(self) -> dict[str, dict[str, Captions]]:
        """All captions by kind and key: of both captioners, and SmolLM2's summaries."""
        runs, sizes = self.runs, self.sizes
        first = first_captioner(runs / "first")
        train = caption(self.train, runs / "first-train", first)
        test = caption(self.test, runs / "first-test", first)
        clips = [clip for clip in self.train[: sizes.refined] if clip.key in train]
        annotator = SimulatedAnnotator(_classes(clips))
        refined = {
            train[clip.key].video_id: annotator.refine(train[clip.key].video, clip.truth).caption for clip in clips
        }
        second = refined_captioner(
            first, runs / "first-train", refined, runs / "refined", sizes.refinement_steps, self.track
        )
        whole = caption(self.train[: sizes.train], runs / "refined-train", second, first)
        others = caption([*self.held_out, *self.test], runs / "refined-others", second)
        summaries = caption(self.train[-sizes.summaries :], runs / "summaries", second, first, SMOLLM2)
        return {FIRST: train | test, REFINED: whole | others, SUMMARY: summaries}

    def caption_rows(self, captions: Mapping[str, Mapping[str, Captions]]) -> list[dict[str, Any]]:
        """Precision and recall by set and kind; the refined captioner's, without the clips that it was refined on."""
        blender = Blender(self.classes)
        rows = []
        refined = {clip.key for clip in self.train[: self.sizes.refined]}
        for name, clips in ((NEW_CLIPS, self.train), (NEW_OBJECTS, self.test)):
            texts: dict[str, dict[str, str]] = {FIRST: {}, REFINED: {}, FRAMES: {}, BLEND: {}, SUMMARY: {}}
            for clip in clips:
                if each := captions[FIRST].get(clip.key):
                    texts[FIRST][clip.key] = each.video
                if clip.key in refined:
                    continue
                if each := captions[REFINED].get(clip.key):
                    texts[REFINED][clip.key] = each.video
                if (each := captions[REFINED].get(clip.key)) and len(each.frames) > 1:
                    texts[FRAMES][clip.key] = ". ".join(each.frames)
                    texts[BLEND][clip.key] = blender.blend(clip.metadata, each.video, each.frames)
                if each := captions[SUMMARY].get(clip.key):
                    texts[SUMMARY][clip.key] = each.summary
            truths = {clip.key: clip.truth for clip in clips}
            for kind, by_key in texts.items():
                for score in score_captions(by_key, truths, self.classes) if by_key else ():
                    metric = measure(score)
                    row = {"set": name, "captions": kind, "metric": metric.name, "n": metric.n}
                    rows.append({**row, "value": metric.value, "interval": metric.interval})
        return rows

    def finetune(self, captions: Mapping[str, Mapping[str, Captions]]) -> Scores:
        """Train every arm with every seed, and evaluate it."""
        sizes = self.sizes
        blender = Blender(self.classes)
        texts: dict[str, dict[str, str]] = {arm: {} for arm in ARMS}
        for clip in self.train[: sizes.train]:
            first, second = captions[FIRST].get(clip.key), captions[REFINED].get(clip.key)
            if first is None or second is None:
                continue
            texts[METADATA][clip.key] = clip.metadata
            texts[VIDEO][clip.key] = blender.blend(clip.metadata, second.video)
            texts[UNREFINED][clip.key] = blender.blend(clip.metadata, first.video, second.frames)
            texts[ALL][clip.key] = blender.blend(clip.metadata, second.video, second.frames)
        planned: list[tuple[Trained, Path, int]] = []
        for arm, count in [*((arm, sizes.train) for arm in ARMS), *((ALL, count) for count in sizes.growth)]:
            clips = [clip for clip in self.train[:count] if clip.key in texts[arm]]
            name = f"arm{ARMS.index(arm)}-{count}"
            shard = write_arm(clips, {clip.key: [texts[arm][clip.key]] for clip in clips}, self.runs / f"{name}.tar")
            planned += [((arm, count), shard, seed) for seed in sizes.seeds]
        before = self._evaluate(before_finetuning(self.runs))
        scores: Scores = {(NOTHING, 0): self._of_seeds([before] * len(sizes.seeds))}
        tasks = [(shard, self.runs / f"{shard.stem}-{seed}", sizes.steps, seed) for _, shard, seed in planned]
        by_arm: dict[Trained, list[dict[str, ItemScores]]] = {}
        for (item, _, _), outcome in self.track(
            zip(planned, self._outcomes(tasks), strict=True), "finetuning", len(tasks)
        ):
            by_arm.setdefault(item, []).append(outcome)
        return scores | {value: self._of_seeds(outcomes) for value, outcomes in by_arm.items()}

    def _outcomes(self, tasks: Sequence[Task]) -> Iterator[dict[str, ItemScores]]:
        """Train and evaluate, in as many processes as `jobs` says."""
        if self.jobs == 1:
            yield from map(self._train_and_evaluate, tasks)
            return
        with ProcessPoolExecutor(self.jobs, multiprocessing.get_context("spawn"), keep_freed_memory) as pool:
            yield from pool.map(self._train_and_evaluate, tasks)

    def _train_and_evaluate(self, task: Task) -> dict[str, ItemScores]:
        return self._evaluate(train_arm(*task))

    def _evaluate(self, weights: Path) -> dict[str, ItemScores]:
        frames = self.runs / "last_frames"
        sets = {
            NEW_CLIPS: ClipTasks(self.held_out, self.classes, frames),
            NEW_OBJECTS: ClipTasks(self.test, self.classes, frames),
        }
        scores = evaluate_arm(weights, VideoEvaluation(sets, self.photos), self.runs / "scores")
        return {
            item.metric if item.metric == name else f"{name}: {item.metric}": item
            for name, listed in scores.items()
            for item in listed
        }

    def _of_seeds(self, several: Sequence[Mapping[str, ItemScores]]) -> dict[str, list[ItemScores]]:
        seeds = self.sizes.seeds
        return {
            name: [replace(by_name[name], seed=seed) for seed, by_name in zip(seeds, several, strict=True)]
            for name in several[0]
        }


def _classes(clips: Sequence[Clip]) -> list[str]:
    return sorted({name for clip in clips for name in clip.truth.colours})


def _metrics(scores: Scores) -> list[str]:
    return list(scores[NOTHING, 0])


def _row(name: str, scores: Scores) -> dict[str, Any]:
    """The scores of a metric by arm, all clips, and the differences of `COMPARED`."""
    most = {arm: max(count for other, count in scores if other == arm) for arm, _ in scores}
    largest = {arm: scores[arm, count][name] for arm, count in most.items()}
    gaps = {f"{ours} − {theirs}": estimate_difference(largest[ours], largest[theirs]) for ours, theirs in COMPARED}
    return {
        "name": name,
        "n": largest[NOTHING][0].items,
        "unit": largest[NOTHING][0].unit,
        "scores": {arm: _estimated(item) for arm, item in largest.items()},
        "differences": {value: {"value": gap.value, **item_error(gap)} for value, gap in gaps.items()},
    }


def _growth_row(name: str, scores: Scores, sizes: Sizes) -> dict[str, Any]:
    counts = (*sizes.growth, sizes.train)
    values = [_estimated(scores[NOTHING, 0][name]), *(_estimated(scores[ALL, count][name]) for count in counts)]
    return {"name": name, "clips": [0, *counts], "values": values}


def _estimated(scores: Sequence[ItemScores]) -> dict[str, Any]:
    (metric,) = measure_all(scores)
    return {"value": metric.value, "by_seed": list(estimate(scores).by_seed), "interval": metric.interval}
