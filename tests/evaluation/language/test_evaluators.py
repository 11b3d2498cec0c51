"""Language models are evaluated by rules: metrics and intervals, failures, records, and going on."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from perception_encoder.datasets.questions.question import Question
from perception_encoder.datasets.questions.read import read_questions
from perception_encoder.errors import DataError, InputError, OutputError
from perception_encoder.evaluation.language.captions import bleu_counts, bleu_of_counts, cider_d_scores
from perception_encoder.evaluation.language.evaluators import QuestionEvaluator, open_media_of
from perception_encoder.evaluation.language.tasks import TASKS
from perception_encoder.evaluation.statistics.scores import Score
from perception_encoder.formats.media_directory import Clip
from perception_encoder.preprocess.frames import plm_frame_indices
from tests.clips import clip, number_of
from tests.datasets.questions.layouts import LAYOUTS, TABLES, write_table
from tests.evaluation.language.answerers import RuleAnswerer, colour_of, drawn, questions, refuse


def values_of(scores: list[Score]) -> dict[str, float]:
    return {score.name: score.value for score in scores}


def run(name: str, items: list[Question], rule=colour_of, **options) -> list[Score]:
    return list(QuestionEvaluator(TASKS[name], items, **options).run(RuleAnswerer(rule)))


def test_accuracy_with_its_interval() -> None:
    wrong = questions(40, answers=("red",) * 10)
    scores = run("vqav2", wrong)
    (metric,) = scores
    assert (metric.name, metric.n, metric.value) == ("VQA accuracy", 40, 14 / 40)
    low, high = metric.interval
    assert 0 < low < 14 / 40 < high < 1
    assert (scores[0].task, scores[0].method, scores[0].failures) == ("vqav2", "generation", ())
    alone = run("vqav2", questions(40, answers=("red",) * 10, block=""))[0].interval
    assert alone[1] - alone[0] < high - low  # two questions about one image are drawn together


def test_without_the_image_the_model_does_not_see_it() -> None:
    scores = run("vqav2", questions(), blind=True)
    assert (scores[0].method, values_of(scores)) == ("generation, no image", {"VQA accuracy": 0})


def test_undecodable_images_and_refused_questions_are_reported() -> None:
    items = [*questions(4), Question(id="bad", question="?", media=(b"no image",), answers=("red",) * 10)]
    items.append(Question(id="gone", question="?", media=(Path("none.jpg"),), answers=("red",) * 10))
    scores = run("vqav2", items)
    assert [failure.source for failure in scores[0].failures] == ["question bad", "question gone"]
    assert scores[0].n == 4
    with pytest.raises(DataError, match="the first: question bad"):
        run("vqav2", items[4:])
    with pytest.raises(DataError, match="question q0: the images fill"):
        run("vqav2", items[:1], refuse)


def test_answers_are_written_and_not_asked_for_again(tmp_path: Path) -> None:
    path, items = tmp_path / "answers.jsonl", questions(8)

    class Dies(RuleAnswerer):
        def answer(self, conversation):
            if len(self.prompts) == 5:
                raise KeyboardInterrupt
            return super().answer(conversation)

    evaluator = QuestionEvaluator(TASKS["vqav2"], items, path)
    with pytest.raises(KeyboardInterrupt):
        list(evaluator.run(Dies(colour_of)))
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["id"] for line in lines] == [f"q{n}" for n in range(5)]
    assert lines[0]["prediction"] == "Red." and lines[0]["score"] == 1 and lines[0]["answers"] == ["red"] * 10
    model = RuleAnswerer(colour_of)
    resumed = list(evaluator.run(model))
    assert len(model.prompts) == 3
    assert resumed == list(QuestionEvaluator(TASKS["vqav2"], items).run(RuleAnswerer(colour_of)))
    model = RuleAnswerer(colour_of)
    list(evaluator.run(model))
    assert model.prompts == []


def test_answers_to_other_words_or_without_the_image_are_not_taken_for_others(tmp_path: Path) -> None:
    path, model = tmp_path / "answers.jsonl", RuleAnswerer(colour_of)
    list(QuestionEvaluator(TASKS["vqav2"], questions(2), path).run(model))
    items = [*questions(1), *questions(2, question="Which colour?")[1:]]
    list(QuestionEvaluator(TASKS["vqav2"], items, path).run(model))
    assert len(model.prompts) == 2 + 1
    with pytest.raises(OutputError, match='not "vqav2, no image"'):
        list(QuestionEvaluator(TASKS["vqav2"], questions(2), path, blind=True).run(model))


def test_failures_are_tried_again(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    items = [*questions(2), Question(id="late", question="?", media=(tmp_path / "a.png",), answers=("blue",) * 10)]
    evaluator = QuestionEvaluator(TASKS["vqav2"], items, path)
    assert len(next(evaluator.run(RuleAnswerer(colour_of))).failures) == 1
    (tmp_path / "a.png").write_bytes(drawn(2))
    scores = list(evaluator.run(RuleAnswerer(colour_of)))
    assert scores[0].failures == () and scores[0].n == 3


def test_groups_are_scored_by_themselves_too() -> None:
    asked = questions(4, answers=("red",))
    items = [replace(question, group=("human", "augmented")[n % 2]) for n, question in enumerate(asked)]
    scores = run("chartqa", items, lambda images, prompt: "red." if "(0)" in prompt else "green")
    assert values_of(scores) == {
        "relaxed accuracy": 1 / 4,
        "relaxed accuracy, augmented": 0,
        "relaxed accuracy, human": 1 / 2,
    }


def test_mvbench_is_the_mean_over_its_tasks() -> None:
    def item(number: int, task: str) -> Question:
        return Question(
            id=f"{task}/{number}", question=f"{number}", media=(drawn(0),), choices=("x", "y"), correct=1, group=task
        )

    items = [item(n, "action_count") for n in range(3)] + [item(9, "state_change")]
    scores = run("mvbench", items, lambda images, prompt: "(B)" if "Question:9" in prompt else "(A)")
    assert values_of(scores) == {"accuracy": 1 / 2, "accuracy, action_count": 0, "accuracy, state_change": 1}
    assert scores[0].settings == {"frames": "8"}


def test_captions_give_the_scorers_values_of(tmp_path: Path) -> None:
    texts = ("a red image", "a green thing", "nothing at all", "a blue image of a dog")
    items = [
        Question(id=str(n), question="", media=(drawn(n),), answers=("a red image", f"one {text}"))
        for n, text in enumerate(texts)
    ]
    said = iter(texts)
    path = tmp_path / "answers.jsonl"
    scores = run("coco", items, lambda images, prompt: next(said), records=path)
    values = values_of(scores)
    references = [entry.answers for entry in items]
    assert values["CIDEr"] == pytest.approx(cider_d_scores(texts, references).mean())
    for order, value in enumerate(bleu_of_counts(bleu_counts(texts, references).sum(axis=0)), 1):
        assert values[f"BLEU-{order}"] == pytest.approx(value)
    assert [metric.unit for metric in scores] == ["", "%", "%", "%", "%"]
    assert all(metric.interval is not None for metric in scores)
    assert json.loads(path.read_text().splitlines()[0])["score"] is None


def test_boxes_are_scored_in_the_images_own_scale(tmp_path: Path) -> None:
    items = [Question(id="a", question="the cup", media=(drawn(0),), box=(6, 4, 36, 24))]  # of 60 by 40 pixels
    path = tmp_path / "answers.jsonl"
    scores = run("refcoco", items, lambda images, prompt: "[100, 100, 600, 500]", records=path)
    assert values_of(scores) == pytest.approx({"accuracy at IoU 0.5": 1, "mean IoU": 0.8})
    assert json.loads(path.read_text())["box"] == [100, 100, 600, 600]
    again = run("refcoco", items, refuse, records=path)
    assert values_of(again) == pytest.approx({"accuracy at IoU 0.5": 1, "mean IoU": 0.8})


def test_all_images_of_a_question_and_frames_of_videos(tmp_path: Path) -> None:
    pair = Question(id="1", question="?", media=(drawn(0), drawn(1)), answers=("x",))
    assert [image.mode for image in open_media_of(pair)] == ["RGB", "RGB"]
    frames = Question(
        id="1", question="?", media=tuple(drawn(n, (n + 2, 9)) for n in range(9)), frames=True, answers=("x",)
    )
    (video,) = open_media_of(frames, 3)
    assert [image.width for image in video.images] == [2, 6, 10] and video.frame_count == 9
    assert len(open_media_of(frames, 20)[0].images) == 9
    (tmp_path / "a.mp4").write_bytes(clip(60))
    clips = (tmp_path / "a.mp4", Clip(tmp_path / "a.mp4", 0.4, 1.0))
    whole, part = open_media_of(Question(id="1", question="?", media=clips, answers=("x",)), 4)
    assert [number_of(image) for image in whole.images] == plm_frame_indices(60, 25, 4)
    assert [number_of(image) for image in part.images] == plm_frame_indices(60, 25, 4, 0.4, 1.0)
    with pytest.raises(InputError, match="question 7: "):
        open_media_of(Question(id="7", question="?", media=(drawn(0), b"x"), answers=("x",)))


@pytest.mark.parametrize("name", sorted({*LAYOUTS, *TABLES} - {"mvbench", "star"}))  # of no real videos
def test_every_dataset_is_evaluated_in_its_layouts(name: str, tmp_path: Path) -> None:
    if name in LAYOUTS:
        (tmp_path / "files").mkdir()
        LAYOUTS[name](tmp_path / "files")
    if name in TABLES:
        write_table(tmp_path / "table" / TABLES[name][0], TABLES[name][1])
    for path in tmp_path.iterdir():
        scores = run(name, read_questions(name, path), lambda images, prompt: "yes")
        assert scores and scores[0].failures == ()
