"""Table 9 and figure 13 of the paper in small: which features a language model can read, before and after alignment.

A small fresh language model is fitted on the frozen tokens of rendered scenes, with their questions, boxes and
captions. For figure 13 the encoder is aligned first, on questions and captions without boxes; heads are fitted on boxes
too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from experiments.differences import gain, item_error
from experiments.language.alignment import Alignment, align, pretrained_decoder
from perception_encoder.datasets.questions.question import Question
from perception_encoder.dense_prediction.head_fitting import FitConfig
from perception_encoder.evaluation.feature_cache import FeatureCache
from perception_encoder.evaluation.language.evaluators import AskedImages
from perception_encoder.evaluation.statistics.scores import ItemScores, estimate, estimate_difference, measure_all
from perception_encoder.files import write_json
from perception_encoder.inference.load import load_layers
from perception_encoder.language_models.answer_head import AnswerHeadConfig
from perception_encoder.layer_analysis.question_task import QuestionTask
from perception_encoder.layer_analysis.sweep import LayerCurve, LayerScore, SweptLayers
from perception_encoder.progress import Track, untracked
from synthetic.questions.rendered import GROUNDING
from synthetic.questions.tasks import find_task, read_rendered

QUESTIONS, BOXES, CAPTIONS = "questions", "boxes", "captions"
"""What is scored: accuracy, mean IoU, CIDEr."""
METRICS = {"accuracy, question": QUESTIONS, f"mean IoU, {GROUNDING}": BOXES, "CIDEr": CAPTIONS}
SEEDS = (0, 1)
LAYERS = (2, 5, 8, 10, 11)
"""Of figure 13, 0-based; rows of table 9 take theirs from among them."""
LAST = LAYERS[-1]

Scores = dict[str, list[ItemScores]]
"""By what is scored, one for each seed."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much is trained and tested."""

    side: int = 128
    """Pixels of an image's side."""
    train: int = 4000
    """Scenes that a head is fitted on."""
    test: int = 300
    epochs: int = 4
    pool: int = 2
    alignment: Alignment = field(default_factory=Alignment)


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of table 9: an encoder's layer and a head."""

    name: str
    compared: str
    """The row that it differs from in one setting; its own name for the first."""
    layer: int = LAST
    linear: bool = False
    pretrained: bool = False
    """The language model has been trained on the texts before, without images."""
    frozen: bool = False
    aligned: bool = False
    regularized: bool = False


BASE = "frozen encoder, last layer, MLP, fresh language model"
ROWS = (
    Row(name=BASE, compared=BASE),
    Row(name="linear projector", compared=BASE, linear=True),
    *(Row(name=f"layer {layer}", compared=BASE, layer=layer) for layer in (10, 8, 5)),
    Row(name="language model trained on texts first", compared=BASE, pretrained=True),
    Row(name="the same, frozen", compared="language model trained on texts first", pretrained=True, frozen=True),
    Row(name="aligned encoder", compared=BASE, aligned=True),
    Row(name="aligned with regularisation", compared="aligned encoder", aligned=True, regularized=True),
)


def reproduce_language(
    result: Path, runs: Path, scenes: Path, sizes: Sizes | None = None, track: Track = untracked
) -> dict[str, Any]:
    """Run what is not cached in `runs`, write the whole result as JSON, and return it.

    `scenes`: rendered ones, train and test. Raises what `align_language`, `read_rendered` and `AskedImages.of` do.
    """
    sizes = sizes or Sizes()
    probes = Probes(runs, scenes, sizes, track)
    scores = {row.name: probes.questions(row) for row in ROWS}
    table = [_table_row(row, scores) for row in ROWS]
    metrics = QUESTIONS, BOXES, CAPTIONS
    before, after = ({layer: probes.layer(layer, aligned) for layer in LAYERS} for aligned in (False, True))
    curves = [_curve(metric, by, when) for when, by in (("before", before), ("after", after)) for metric in metrics]
    gains = {metric: _gap(after[LAST][metric], before[LAST][metric]) for metric in metrics}
    value = {
        "sizes": asdict(sizes),
        "seeds": len(SEEDS),
        "table": table,
        "curves": curves,
        "gains": gains,
    }
    write_json(result, value, indent=1)
    return value


class Probes:
    """Fits heads and keeps their scores on the disk."""

    def __init__(self, runs: Path, scenes: Path, sizes: Sizes, track: Track) -> None:
        self.runs, self.scenes, self.sizes, self.track = runs, scenes, sizes, track
        self.read = {
            name: (_grouped(read_rendered(name, scenes, "train")), _grouped(read_rendered(name, scenes)))
            for name in ("scenes", "scene captions")
        }

    def questions(self, row: Row) -> Scores:
        """The scores of a row of the table."""
        return self._score("scenes", row)

    def layer(self, layer: int, aligned: bool) -> Scores:
        """The scores of a layer, of captions too."""
        row = Row(name="", compared="", layer=layer, aligned=aligned, regularized=aligned)
        return {**self._score("scenes", row), **self._score("scene captions", row)}

    def _score(self, name: str, row: Row) -> Scores:
        scores: Scores = {}
        for seed in SEEDS:
            for item in self._scored(name, row, seed):
                scores.setdefault(METRICS[item.metric], []).append(replace(item, seed=seed))
        return scores

    def _scored(self, name: str, row: Row, seed: int) -> list[ItemScores]:
        sizes, questions = self.sizes, self.read[name]
        fit = FitConfig(epochs=sizes.epochs, batch=32, seed=seed)
        head = AnswerHeadConfig(fit=fit, pool=sizes.pool, linear=row.linear, frozen=row.frozen)
        train, test = (AskedImages.of(name, part) for part in questions)
        splits, side = (train.spread(sizes.train), test.spread(sizes.test)), (sizes.side, sizes.side)
        make = pretrained_decoder(self.runs, questions[0], sizes.alignment) if row.pretrained else None
        task = QuestionTask(find_task(name), *splits, head, side, 1, make)
        encoder = load_layers(self._encoder(row, seed))
        cache = FeatureCache(directory=self.runs / "features")
        swept = SweptLayers(encoder, f"{name}{', pretrained' * row.pretrained}", cache, list(LAYERS))
        scores = task.run(swept.at(row.layer), self.track)
        return [
            item for score in scores for item in score.items if isinstance(item, ItemScores) and item.metric in METRICS
        ]

    def _encoder(self, row: Row, seed: int) -> str:
        if not row.aligned:
            return "builtin"
        return str(align(self.runs, self.scenes, self.sizes.alignment, seed, row.regularized, self.track))


def _grouped(questions: Sequence[Question]) -> list[Question]:
    """Questions in two groups: those for boxes, and all others."""
    return [question if question.group == GROUNDING else replace(question, group="question") for question in questions]


def _table_row(row: Row, scores: Mapping[str, Scores]) -> dict[str, Any]:
    ours, theirs = scores[row.name], scores[row.compared]
    values, gaps = {}, {}
    for name, by_seed in ours.items():
        (metric,), seeds = measure_all(by_seed), list(estimate(by_seed).by_seed)
        values[name] = {"value": metric.value, "by_seed": seeds, "interval": metric.interval, "n": metric.n}
        if row.compared != row.name:
            gaps[name] = _gap(by_seed, theirs[name])
    return {"name": row.name, "compared": row.compared, "scores": values, "differences": gaps}


def _gap(ours: Sequence[ItemScores], theirs: Sequence[ItemScores]) -> dict[str, Any]:
    gap = estimate_difference(ours, theirs)
    by_seed = [list(estimate(item).by_seed) for item in (ours, theirs)]
    return {"value": gap.value, **item_error(gap), "by_seed": by_seed}


def _curve(metric: str, by_layer: Mapping[int, Scores], when: str) -> dict[str, Any]:
    scores = {layer: LayerScore.of(*measure_all(by_metric[metric])) for layer, by_metric in by_layer.items()}
    curve = LayerCurve(model=when, task=metric, metric=metric, depth=LAST + 1, scores=scores)
    return {
        "when": when,
        "metric": metric,
        "unit": curve.unit,
        "layers": list(scores),
        "values": [score.value for score in scores.values()],
        "by_seed": [list(score.by_seed) for score in scores.values()],
        "interval": [score.bounds() for score in scores.values()],
        "best": curve.best,
        "gap": gain(scores[curve.best], scores[LAST]),
    }
