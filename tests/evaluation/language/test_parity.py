"""Scorers beside those of lmms-eval and pycocoevalcap, case by case; each difference has its reason."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest

from perception_encoder.datasets.questions.question import Question
from perception_encoder.evaluation.language.answers import (
    anls,
    extract_choice,
    parse_yes_no,
    relaxed_accuracy,
    vqa_accuracy,
)
from perception_encoder.evaluation.language.captions import (
    cider_d_scores,
    tokenize_caption,
)
from perception_encoder.evaluation.language.evaluators import Answered, score_answers
from perception_encoder.evaluation.language.tasks import TASKS
from perception_encoder.evaluation.statistics.scores import ItemScores
from tests.evaluation.language.lmms import lmms_functions, lmms_statement
from tests.evaluation.language.test_captions import bleu

pytestmark = pytest.mark.filterwarnings("ignore:'count' is passed as positional")


def close(one: float, other: float) -> bool:
    return abs(one - other) < 1e-9


def compare(
    cases: Iterable[tuple[Any, ...]],
    ours: Callable[..., float],
    theirs: Callable[..., float],
    reasons: dict[str, Callable[..., bool]] | None = None,
    most: float = 0.5,
) -> None:
    """Score all cases both ways; a case that differs for none of the reasons fails, and so does an unused reason."""
    count, differences = 0, Counter(dict.fromkeys(reasons or {}, 0))
    for case in cases:
        count += 1
        try:
            their = theirs(*case)
        except ZeroDivisionError:
            their = float("nan")
        if not close(ours(*case), their):
            reason = next((reason for reason, holds in (reasons or {}).items() if holds(*case)), None)
            assert reason is not None, f"{case}: {ours(*case)}, not {their}"
            differences[reason] += 1
    assert all(differences.values()), f"a reason that no case shows: {differences}"
    assert differences.total() < most * count


# fmt: off
WORDS = (
    "two", "2", "ten", "none", "0", "a dog", "the dog", "dog", "Dog.", "an  apple", "apple", "dogs'", "dog's", "dog s",
    "it's", "its", "cant", "can't", "dont", "don't", "1,000", "1000", "3.5", "3. 5", "35", "red, white", "red white",
    "yes!", "yes", "YES", "n/a", "n a", "5 o'clock", "oclock", "T-shirt", "t shirt", "U.S.A.", "usa", "us a",
    "new\nyork", "new york", "", " ", "a", "what?", "what", "50%", "$5", "5", "(left)", "left", "left.", "a.m.",
    "10:30", "x" * 3, "." * 40, "youre", "you're", "1.", "-1", "1/2", "half", "the the", "mr. smith's", "café",
    "Straße", "yes and no",
)
JOINED = ("red,white", "redwhite", "yes,it's", "why?yes", "whyyes", "dog,cat's", "dogcat 's")
# fmt: on


def vqa_cases(words: Sequence[str], count: int) -> list[tuple[str, list[str]]]:
    rng = random.Random(0)
    pools = [rng.sample(words, rng.randint(1, 4)) for _ in range(count)]
    cases = [(rng.choice([*pool, *words]), [rng.choice(pool) for _ in range(10)]) for pool in pools]
    return cases + [(word, [word] * same + ["something else"] * (10 - same)) for word in words for same in range(11)]


def test_vqa_accuracy() -> None:
    process = lmms_functions(
        "tasks/textvqa/utils.py",
        "textvqa_process_results",
        **lmms_functions("tasks/_task_utils/vqa_eval_metric.py", "EvalAIAnswerProcessor"),
    )["textvqa_process_results"]

    def theirs(prediction: str, answers: list[str]) -> float:
        return process({"answers": list(answers), "question_id": 1}, [prediction])["exact_match"]

    compare(vqa_cases(WORDS + JOINED, 1500), vqa_accuracy, theirs)


def test_vqav2() -> None:
    """VQAv2's path in lmms-eval leaves out the first step of its own processor, which drops commas and splits 's."""
    process = lmms_functions(
        "tasks/vqav2/utils.py",
        "vqav2_process_results",
        **lmms_functions("tasks/_task_utils/vqa_eval_metric.py", "EvalAIAnswerProcessor"),
    )["vqav2_process_results"]

    def theirs(prediction: str, answers: list[str]) -> float:
        doc = {
            "answers": [{"answer": answer, "answer_id": row} for row, answer in enumerate(answers)],
            "question_id": 1,
        }
        return process(doc, [prediction])["exact_match"]

    def first_step(text: str) -> str:
        return text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()

    def joined(prediction: str, answers: list[str]) -> bool:
        """Whether they agree once lmms-eval's path is given what its processor's first step makes."""
        return close(theirs(first_step(prediction), list(map(first_step, answers))), vqa_accuracy(prediction, answers))

    reason = "lmms-eval does not drop commas and question marks or split 's first, as its own EvalAI processor does"
    cases = vqa_cases(WORDS + JOINED, 1500)
    compare(cases, vqa_accuracy, theirs, {reason: joined})


# fmt: off
TEXTS = (
    "invoice", "Invoice", "invoices", "in voice", "12.50", "12,50", "$12.50", "n", "", "µ", "a b c", "the end", "1 234",
)
# fmt: on
SPACED = (" invoice", "invoice\n", "  12.50  ", "a  b  c", "invo  ice ", " x" * 3)


def test_anls() -> None:
    theirs = lmms_functions("api/metrics.py", "anls", "levenshtein_distance")["anls"]
    cases = [(one, [two]) for one, two in itertools.product(TEXTS + SPACED + ("straße", "STRASE"), repeat=2)]
    cases += [(one, list(pair)) for one, pair in itertools.product(TEXTS, itertools.combinations(TEXTS + SPACED, 2))]

    def spaced(prediction: str, answers: list[str]) -> bool:
        """Whether they agree once lmms-eval is given texts without such spaces."""
        plain = [" ".join(text.split()) for text in (prediction, *answers)]
        return close(theirs(plain[1:], plain[:1])["anls"], anls(prediction, answers))

    def longer(prediction: str, answers: list[str]) -> bool:
        return any(len(text.upper()) != len(text.lower()) for text in (prediction, *answers))

    reasons = {
        "lmms-eval divides by the length before spaces are removed": spaced,
        "lmms-eval divides by the length in upper case, where ß is SS": longer,
    }
    compare(cases, anls, lambda prediction, answers: theirs(answers, [prediction])["anls"], reasons)


# fmt: off
VALUES = (
    "0", "0.0", "1", "1.0", "100", "95", "95.01", "94.9", "105", "105.1", "-100", "-95", "7%", "0.07", "7", "7.3%",
    "100%", "1,000", "1000", "1e3", "abc", "ABC", "Yes", "yes.", "2019", "2,019", "$5", "5", "", "%", "0%", "12 %",
)
ODD = (" yes", "yes\n", "7% ", "nan", "NaN", "inf", "Infinity")
# fmt: on


def test_relaxed_accuracy() -> None:
    theirs = lmms_functions("tasks/chartqa/utils.py", "relaxed_correctness")["relaxed_correctness"]
    reasons = {
        "lmms-eval compares texts with their surrounding spaces": lambda *texts: close(
            theirs(*(text.strip() for text in texts)), relaxed_accuracy(*texts)
        ),
        "lmms-eval takes nan and inf for numbers, which equal nothing": lambda *texts: all(
            text.strip().lower() in ("nan", "inf", "infinity") for text in texts
        ),
    }
    cases = itertools.product(VALUES + ODD, repeat=2)
    compare(cases, relaxed_accuracy, theirs, reasons)


CHOICES = ["a red car", "a blue dog", "an egg", "no"]


def chosen(prediction: str, answer: int) -> float:
    return float(extract_choice(prediction, CHOICES) == answer)


LETTERS = ("A", "B.", " C", "D", "b", "B. a blue dog", "A. a red car", "C.\n", "E", "", "none of them")
# fmt: off
PHRASES = (
    "(B)", "B)", "The answer is B.", "a red car", "A blue dog", "It is a dog", "no", "Is it an egg? (C)", "B: dog",
)
# fmt: on


def test_choices_of_diagrams() -> None:
    choose = lmms_functions("tasks/ai2d/utils.py", "MultiChoiceRegexFilter", ExtendedRegexFilter=object)
    equal = lmms_functions("api/metrics.py", "exact_match_hf_evaluate")["exact_match_hf_evaluate"]

    def theirs(prediction: str, answer: int) -> float:
        letter = choose["MultiChoiceRegexFilter"]().apply([[prediction]], [None])
        wanted = [chr(ord("A") + answer)]
        return float(equal(letter, wanted, ignore_case=True, ignore_punctuation=True)["exact_match"])

    reasons = {
        "lmms-eval does not know a choice's text or a letter within a sentence": lambda prediction, answer: (
            prediction in (*PHRASES, " C", "C.\n")
        ),
    }
    cases = itertools.product(LETTERS + PHRASES, range(4))
    compare(cases, chosen, theirs, reasons)


def test_choices_of_videos() -> None:
    score = lmms_functions("tasks/mvbench/utils.py", "mcq_acc")["mcq_acc"]
    reasons = {
        'lmms-eval reads the article "a" as the letter A': lambda prediction, answer: (
            "a " in prediction.lower() and prediction != "A. a red car"
        ),
        "lmms-eval does not know a choice's text": lambda prediction, answer: prediction in ("no", "an egg"),
    }
    cases = itertools.product((*LETTERS, *PHRASES, "an egg"), range(4))
    compare(cases, chosen, lambda prediction, answer: float(score(chr(ord("A") + answer), prediction)), reasons)


METRICS = ("accuracy", "precision", "recall", "f1", "yes_ratio")


@pytest.mark.parametrize("name", METRICS)
def test_yes_and_no(name: str) -> None:
    names = {name: name.replace("f1", "f1_score") for name in METRICS}
    functions = lmms_functions(
        "tasks/pope/utils.py", "pope_process_results", *(f"pope_aggregate_{name}" for name in names.values())
    )
    rng = random.Random(0)
    said = ("yes", "no", "Yes", "NO", "yes ", "Yes.", "No, it is not.", "maybe")
    cases = []
    for size, words in itertools.product((1, 2, 5, 40), (said[:5], said)):
        cases += [([rng.choice(words) for _ in range(size)], [rng.choice(("yes", "no")) for _ in range(size)])]
        cases += [(["yes"] * size, ["no"] * size), (["no"] * size, ["yes"] * size), (["maybe"] * size, ["yes"] * size)]

    def theirs(predictions: list[str], answers: list[str]) -> float:
        docs = [{"answer": answer, "question_id": row} for row, answer in enumerate(answers)]
        results = [
            functions["pope_process_results"](doc, [prediction])["pope_accuracy"]
            for doc, prediction in zip(docs, predictions, strict=True)
        ]
        return functions[f"pope_aggregate_{names[name]}"](results)

    def plain(word: str, neither: str) -> str:
        return {True: "yes", False: "no", None: neither}[parse_yes_no(word)]

    def bare(predictions: list[str], answers: list[str]) -> bool:
        """Whether they agree once lmms-eval is given bare words; what is neither is wrong, and not a yes."""
        words = [plain(word, "neither" if name == "accuracy" else "no") for word in predictions]
        return close(theirs(words, answers), ours(predictions, answers))

    def of_answers(predictions: list[str], answers: list[str]) -> bool:
        """Whether lmms-eval gives the share among the answers, and ours is that among the predictions."""
        share = [plain(word, "no") for word in predictions].count("yes") / len(predictions)
        return close(theirs(predictions, answers), answers.count("yes") / len(answers)) and close(
            ours(predictions, answers), share
        )

    ours = partial(_metric_of, name)
    reasons = {'lmms-eval reads only a bare "yes" or "no", and leaves others out of false negatives': bare}
    if name == "yes_ratio":
        reasons = {"lmms-eval counts yes among the answers, not the predictions": of_answers}
    compare(cases, ours, theirs, reasons, most=1 if name == "yes_ratio" else 0.5)


def _metric_of(name: str, predictions: list[str], answers: list[str]) -> float:
    """Return the metric of the evaluator's scores."""
    pairs = zip(predictions, answers, strict=True)
    answered = [
        Answered(Question(id=str(row), question="", media=(), answers=(answer,)), prediction)
        for row, (prediction, answer) in enumerate(pairs)
    ]
    scores = {score.metric.replace(" ", "_").lower(): score for score in score_answers(TASKS["pope"], answered)}
    score = scores[name]
    assert isinstance(score, ItemScores)
    values, _, _, weights = score.entries()
    return float((values * weights).sum() / max(1, weights.sum()))


def test_boxes() -> None:
    functions = lmms_functions(
        "tasks/refcoco/utils_rec.py", "parse_float_sequence_within", "compute_iou", "compute_accuracy"
    )
    rng = random.Random(0)
    cases = []
    for _ in range(500):
        left, top = rng.randint(0, 500), rng.randint(0, 500)
        box = (left, top, left + rng.randint(50, 400), top + rng.randint(50, 400))
        moved = [value + rng.randint(-40, 40) for value in box]
        cases.append((str([min(max(value, 0), 999) for value in moved]), box))
    box = (100, 100, 300, 300)
    cases += [
        (text, box)
        for text in (
            "",
            "no box",
            "[100, 100, 300, 200]",
            "[300, 300, 100, 100]",
            "[100, 300, 300, 100]",
            "[0, 0, 0, 0]",
        )
    ]
    spellings = ("(100,100),(300,300)", "100 100 300 300", "[0.1, 0.1, 0.3, 0.3]", "[[100, 100], [300, 300]]")
    cases += [(text, box) for text in spellings]

    def theirs(prediction: str, box: tuple[int, ...]) -> float:
        return float(functions["compute_accuracy"](box, functions["parse_float_sequence_within"](prediction)))

    reasons = {
        "lmms-eval reads one spelling, in the scale of the truth": lambda prediction, box: prediction in spellings,
        "lmms-eval divides by zero for a box with swapped corners": lambda prediction, box: (
            "300, 300, 100" in prediction
        ),
    }
    score, question = TASKS["refcoco"].score, Question(id="1", question="", media=())
    assert score is not None
    compare(cases, lambda text, box: score(text, question, box), theirs, reasons)


# fmt: off
SENTENCES = (
    "A man rides a brown horse on the beach.", "A man on a horse.", "Two dogs, playing with a ball!", "a cat", "",
    "A brown horse isn't on the beach; a man's dog is.", "Two dogs play with a red ball in the grass.", "a a a a a a",
    "The beach (with a man) and 3 well-known dogs", "A cat sits on a mat and looks at two dogs playing with a ball.",
)
# fmt: on


def captions() -> tuple[list[str], list[list[str]]]:
    rng = random.Random(0)
    references = [rng.choices([sentence for sentence in SENTENCES if sentence], k=rng.randint(1, 5)) for _ in range(60)]
    return [rng.choice([*SENTENCES, *reference]) for reference in references], references


def spaced(texts: Sequence[str]) -> list[str]:
    return [" ".join(tokenize_caption(text)) for text in texts]


def test_captions_equal_pycocoevalcap_on_the_same_words() -> None:
    pytest.importorskip("pycocoevalcap", reason="needs pycocoevalcap: pip install pycocoevalcap")
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider

    predictions, references = captions()
    truth = {row: spaced(reference) for row, reference in enumerate(references)}
    guesses = {row: spaced([prediction]) for row, prediction in enumerate(predictions)}
    ours = cider_d_scores(predictions, references)
    assert ours == pytest.approx(Cider().compute_score(truth, guesses)[1], abs=1e-9) and ours.max() > 5
    for size in (1, 2, 10, 60):
        part = [{row: item[row] for row in range(size)} for item in (truth, guesses)]
        values = bleu(predictions[:size], references[:size])
        assert values == pytest.approx(Bleu(4).compute_score(*part, verbose=0)[0], abs=1e-9)
    assert 0.1 < values[3] < 1


@pytest.mark.parametrize(("prediction", "answer"), [("invoice ", "invoces"), ("invo", "invoice  ")])
def test_lmms_eval_divides_anls_by_the_unstripped_length(prediction: str, answer: str) -> None:
    theirs = lmms_functions("api/metrics.py", "anls", "levenshtein_distance")["anls"]
    assert theirs([answer], [prediction])["anls"] > anls(prediction, [answer])
    assert anls(prediction, [answer]) == pytest.approx(theirs([answer.strip()], [prediction.strip()])["anls"])


def test_lmms_eval_rounds_scores_with_several_answers_up_to_one() -> None:
    statement = lmms_statement("api/task.py", "process_results", "any(scores)")
    score = vqa_accuracy("cat", ["cat", *["dog"] * 9])
    namespace = {"scores": [score, 0.0], "any": any}
    exec(statement, namespace)
    assert namespace["result_score"] == 1.0 and score == pytest.approx(0.3)


def test_lmms_eval_leaves_unanswered_videos_out_of_the_mean() -> None:
    mean = lmms_functions("tasks/mvbench/utils.py", "mvbench_aggregate_results")["mvbench_aggregate_results"]
    answers = [{"pred_answer": "A", "score": 1}, {"pred_answer": "", "score": 0}]
    assert mean(answers) == 100
    assert np.mean([chosen(answer["pred_answer"], 0) for answer in answers]) == 0.5
