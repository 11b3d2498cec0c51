"""Figures 8, 9 and 11 in small (section 3): where every task peaks, and what moves the best layer away from the output.

The built-in model and the two ends of the recipe in small are asked, and towers that are trained for it: of two depths,
with the class token or attention pooling, for two lengths, all else the recipe's steps 1 to 7 (in runs as short as
these the two further steps harm: docs/results/recipe.md). Beside each stands the same architecture with random weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from perception_encoder.data.progress import Track, untracked
from perception_encoder.errors import DataError
from perception_encoder.evaluation.colour_encoder import COLOURS
from perception_encoder.evaluation.layer_encoders import RANDOM
from perception_encoder.evaluation.outcomes import PHOTOS
from perception_encoder.evaluation.paired import average
from perception_encoder.pretraining.run import PretrainingConfig, pretrain
from perception_encoder.recipes.layer_findings import Contrast, curve_rows, effect_rows
from perception_encoder.recipes.layer_subjects import LayerData, Sizes, Subject, examine, make_questions, unpack
from perception_encoder.recipes.nano_steps import nano_step, run_flops
from perception_encoder.recipes.reproduction import Place, Run, Runs, averaged, side_by_side
from perception_encoder.train.metrics import Listener

STEP = 7
"""Last step of the recipe that the towers are trained with."""
DEPTHS, POOLS, LENGTHS = (12, 24), ("class token", "attention pooling"), ("short", "long")
FLOPS = {"short": 70e12, "long": 210e12}
"""Of a run, forward and backward; the eight together are two hours on two slow cores."""
BUILTIN, FIRST, LAST = "built-in", "step 1", "steps 1–9"
KEPT = {FIRST: "nano_step1.safetensors", LAST: "nano_step9.safetensors"}
"""Towers that `pe reproduce recipe` kept."""
UNTURNED = "random, no RoPE"


def variant(depth: int, pool: str, length: str) -> PretrainingConfig:
    """The run of a tower; `pool` is one of `POOLS`, `length` one of `LENGTHS`."""
    return nano_step(STEP, flops=FLOPS[length], layers=depth, attention_pool=pool == POOLS[1])


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The experiment."""

    variant: Callable[[int, str, str], PretrainingConfig] = variant
    depths: tuple[int, int] = DEPTHS
    sizes: Sizes = field(default_factory=Sizes)

    @property
    def variants(self) -> Iterator[tuple[int, str, str]]:
        """Depth, pooling and length of each tower; the longest runs first, so that side by side they end together."""
        for length, depth, pool in product(LENGTHS[::-1], self.depths[::-1], POOLS):
            yield depth, pool, length


def reproduce_layers(
    place: Place,
    data: LayerData,
    towers: Path,
    plan: Plan | None = None,
    track: Track = untracked,
    listener: Listener | None = None,
    jobs: int = 1,
) -> dict[str, Any]:
    """Train and measure what is not kept, and return the whole result.

    `towers`: the folder that `pe reproduce recipe` kept its ends in. Raises DataError where data or a tower are
    missing, before anything is trained, and what `pretrain`, `HeldOut` and `examine` do.
    """
    plan = plan or Plan()
    for name, file in KEPT.items():
        if not (towers / file).is_file():
            raise DataError(f"the tower of {name} is missing: {towers / file}; pe reproduce recipe makes it")
    make_questions(data, plan.sizes)  # raises
    wanted = []
    for depth, pool, length in plan.variants:
        config = plan.variant(depth, pool, length)
        about = {"name": tower_name(depth, pool, length), "depth": depth, "tflop": round(run_flops(config) / 1e12)}
        wanted.append(Run(about=about, config=config, train=pretrain, key=config.fingerprint(), needed=True))
    runs = Runs(place, track, listener, jobs)
    paths = {run.about["name"]: path for run, path in zip(wanted, runs.add(*wanted), strict=True)}
    subjects = list_subjects(paths, towers, plan.depths)
    answers = _ask(subjects, data, plan.sizes, place.runs, track, jobs)
    rng = np.random.default_rng(0)
    trained = {
        name: asdict(average(PHOTOS, averaged(found)[PHOTOS], rng)) for (name,), found in runs.outcomes("name").items()
    }
    curves = {subject.name: unpack(subject.name, answers[subject.name]) for subject in subjects}
    return runs.finish(
        {
            "sizes": asdict(plan.sizes),
            "models": [_describe(each, answers[each.name], trained.get(each.name)) for each in subjects],
            "curves": curve_rows(curves, {each.name: each.beside for each in subjects}),
            "effects": effect_rows(curves, contrasts(plan.depths)),
        }
    )


def tower_name(depth: int, pool: str, length: str) -> str:
    """What a trained tower is called on the page."""
    return f"{depth} layers, {pool}, {length}"


def random_name(depth: int) -> str:
    """What random weights of a depth are called on the page."""
    return f"random, {depth} layers"


def list_subjects(paths: Mapping[str, Path], towers: Path, depths: Sequence[int]) -> list[Subject]:
    """All that are asked, baselines behind; `paths`: weights by the names of the towers that were trained."""
    ends = {name: str(towers / file) for name, file in KEPT.items()}
    found = [
        Subject(name=FIRST, place=ends[FIRST], beside=UNTURNED),
        Subject(name=LAST, place=ends[LAST], beside=random_name(DEPTHS[0])),
        Subject(name=BUILTIN, place="builtin", beside=random_name(DEPTHS[0])),
    ]
    random = {UNTURNED: RANDOM + ends[FIRST], random_name(DEPTHS[0]): RANDOM + "builtin"}
    for depth, pool, length in product(depths, POOLS, LENGTHS):
        name = tower_name(depth, pool, length)
        found.append(Subject(name=name, place=str(paths[name]), beside=random_name(depth)))
        random.setdefault(random_name(depth), RANDOM + str(paths[name]))
    return [
        *found,
        *(Subject(name=name, place=place) for name, place in random.items()),
        Subject(name=COLOURS, place=COLOURS),
    ]


def contrasts(depths: Sequence[int]) -> list[Contrast]:
    """What is compared with what: the recipe's ends, and each of the three things that were varied."""
    found = [Contrast(name="recipe", pairs=((FIRST, LAST),)), Contrast(name="built-in", pairs=((FIRST, BUILTIN),))]
    levels: dict[str, Sequence[Any]] = {"depth": depths, "pooling": POOLS, "length": LENGTHS}
    for place, (name, (low, high)) in enumerate(levels.items()):
        others = [each for at, each in enumerate(levels.values()) if at != place]
        pairs = []
        for rest in product(*others):
            one, other = ([*rest[:place], level, *rest[place:]] for level in (low, high))
            pairs.append((tower_name(*one), tower_name(*other)))
        found.append(Contrast(name=name, pairs=tuple(pairs)))
    return found


def _ask(
    subjects: Sequence[Subject], data: LayerData, sizes: Sizes, runs: Path, track: Track, jobs: int
) -> dict[str, dict[str, Any]]:
    """The answers of all, by their names."""
    if jobs == 1:
        return {each.name: examine(each, data, sizes, runs, track) for each in subjects}
    answers = side_by_side(examine, {each.name: (each, data, sizes, runs) for each in subjects}, jobs)
    return dict(track(answers, "models asked", len(subjects)))


def _describe(subject: Subject, answer: Mapping[str, Any], trained: Mapping[str, Any] | None) -> dict[str, Any]:
    kept = {name: answer[name] for name in ("weights", "image_size", "depth", "seconds", "pictures", "failures")}
    return {"name": subject.name, "beside": subject.beside, **kept, **({PHOTOS: trained} if trained else {})}
