"""Score answers of language models by rules: short answers, numbers, choices, yes or no, and boxes.

VQA accuracy: Antol et al., ICCV 2015, and the answer processor of MMF, which repeats what the EvalAI server does to
TextVQA's answers. Its oddities are repeated, because published results contain them: the pattern meant to spare decimal
points has a misspelled lookbehind, and it removes at most 32 full stops. Relaxed accuracy: Masry et al., "ChartQA", ACL
2022; percent signs and 0 as in the scorer of published results (pix2struct, Qwen-VL). ANLS: Biten et al., ICCV 2019,
and DocVQA's server, which divides by the length of the texts before surrounding spaces are removed, and so gives a
wrong answer with spaces a better score; here both texts are normalized first. Choices: Kembhavi et al., ECCV 2016; Li
et al., "MVBench", CVPR 2024; neither says how a letter is read from a sentence; these rules never read the article "a"
as choice A. Yes or no: POPE (Li et al., EMNLP 2023) and its evaluate.py: the first sentence counts; an answer that is
neither is wrong here, and yes there. Boxes: RefCOCO (Yu et al., ECCV 2016), `[x, y, x, y]`: left, top, right and bottom
in thousandths of the image's sides, 000–999, as Perception Encoder's alignment and PLM write them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from perception_encoder.datasets.questions.question import Corners
from perception_encoder.errors import DataError, needs_extra

_CONTRACTIONS = """
aint ain't, arent aren't, cant can't, couldve could've, couldnt couldn't, couldn'tve couldn't've,
couldnt've couldn't've, didnt didn't, doesnt doesn't, dont don't, hadnt hadn't, hadnt've hadn't've,
hadn'tve hadn't've, hasnt hasn't, havent haven't, hed he'd, hed've he'd've, he'dve he'd've, hes he's, howd how'd,
howll how'll, hows how's, Id've I'd've, I'dve I'd've, Im I'm, Ive I've, isnt isn't, itd it'd, itd've it'd've,
it'dve it'd've, itll it'll, let's let's, maam ma'am, mightnt mightn't, mightnt've mightn't've,
mightn'tve mightn't've, mightve might've, mustnt mustn't, mustve must've, neednt needn't, notve not've,
oclock o'clock, oughtnt oughtn't, ow's'at 'ow's'at, 'ows'at 'ow's'at, 'ow'sat 'ow's'at, shant shan't,
shed've she'd've, she'dve she'd've, she's she's, shouldve should've, shouldnt shouldn't,
shouldnt've shouldn't've, shouldn'tve shouldn't've, somebody'd somebodyd, somebodyd've somebody'd've,
somebody'dve somebody'd've, somebodyll somebody'll, somebodys somebody's, someoned someone'd,
someoned've someone'd've, someone'dve someone'd've, someonell someone'll, someones someone's,
somethingd something'd, somethingd've something'd've, something'dve something'd've, somethingll something'll,
thats that's, thered there'd, thered've there'd've, there'dve there'd've, therere there're, theres there's,
theyd they'd, theyd've they'd've, they'dve they'd've, theyll they'll, theyre they're, theyve they've, twas 'twas,
wasnt wasn't, wed've we'd've, we'dve we'd've, weve we've, werent weren't, whatll what'll, whatre what're,
whats what's, whatve what've, whens when's, whered where'd, wheres where's, whereve where've, whod who'd,
whod've who'd've, who'dve who'd've, wholl who'll, whos who's, whove who've, whyll why'll, whyre why're,
whys why's, wont won't, wouldve would've, wouldnt wouldn't, wouldnt've wouldn't've, wouldn'tve wouldn't've,
yall y'all, yall'll y'all'll, y'allll y'all'll, yall'd've y'all'd've, y'alld've y'all'd've, y'all'dve y'all'd've,
youd you'd, youd've you'd've, you'dve you'd've, youll you'll, youre you're, youve you've
"""
CONTRACTIONS = dict(pair.split() for pair in _CONTRACTIONS.split(","))
"""Words without their apostrophe → the full words."""
_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
NUMBERS = {word: str(value) for value, word in enumerate(_WORDS)} | {"none": "0"}
"""Number words → digits."""
ARTICLES = frozenset({"a", "an", "the"})
PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_FULL_STOP = re.compile(r"(?!<=\d)\.(?!\d)")
_MOST_FULL_STOPS = 32
_GROUPED_DIGITS = re.compile(r"(?<=\d),+(?=\d)")


def normalize_answer(text: str) -> str:
    """Return an answer as EvalAI compares it: lower case, without punctuation and articles, numbers as digits."""
    text = text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    text = _without_punctuation(text.replace("\n", " ").replace("\t", " ").strip())
    words = [NUMBERS.get(word, word) for word in text.lower().split()]
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def _without_punctuation(text: str) -> str:
    """Remove punctuation next to a space anywhere in the text; replace punctuation that only joins words by a space."""
    cleaned = text
    for mark in PUNCTUATION:
        beside_space = f"{mark} " in text or f" {mark}" in text or _GROUPED_DIGITS.search(text)
        cleaned = cleaned.replace(mark, "" if beside_space else " ")
    return _FULL_STOP.sub("", cleaned, count=_MOST_FULL_STOPS)


def vqa_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """Return the VQA accuracy of a prediction, in [0, 1]: its agreement with people's answers.

    The mean over the people's answers, each left out in turn, of min(n / 3, 1), n being how many of the others equal
    the prediction. Of 10 answers, 1, 2, 3 and 4 equal ones give 0.3, 0.6, 0.9 and 1. Both sides are normalized (see
    `normalize_answer`). A single answer leaves no other one and scores 0.
    """
    normalized = normalize_answer(prediction)
    same = [normalize_answer(answer) == normalized for answer in answers]
    return sum(min((sum(same) - agrees) / 3, 1.0) for agrees in same) / len(answers)


def relaxed_accuracy(prediction: str, answer: str) -> float:
    """Return 1 if the prediction is right, else 0.

    Two numbers: |prediction − answer| / |answer| must be at most 0.05; "7%" is 0.07. Otherwise, and for an
    answer of 0, whose relative error is undefined, both texts must be equal in lower case, without surrounding spaces.
    "nan" and "inf" are texts.
    """
    value, expected = _number(prediction), _number(answer)
    if value is not None and expected:
        return float(abs(value - expected) / abs(expected) <= 0.05)
    return float(prediction.strip().lower() == answer.strip().lower())


def _number(text: str) -> float | None:
    text = text.strip()
    try:
        value = float(text.rstrip("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def anls(prediction: str, answers: Sequence[str]) -> float:
    """Return the average normalized Levenshtein similarity of one question: 0, or in [0.5, 1].

    The best over the answers of 1 − distance / length of the longer text, both in lower case, stripped, with single
    spaces; 0 if it is below 0.5. Like the server, exactly 0.5 still counts, which the paper's formula excludes. Two
    empty texts are equal. Raises MissingExtraError without rapidfuzz.
    """
    with needs_extra("lang", "rapidfuzz"):
        from rapidfuzz.distance import Levenshtein
    text = _normalize(prediction)
    best = max(Levenshtein.normalized_similarity(text, _normalize(answer)) for answer in answers)
    return float(best) if best >= 0.5 else 0.0


def _normalize(text: str) -> str:
    return " ".join(text.lower().split())


_LETTER = re.compile(r"[\s\"'*]*[(\[]?([A-Za-z])[)\]]?[\s.:,\"'*]*")
_FIRST = re.compile(r"\s*(?:[(\[]([A-Za-z])[)\]]|([A-Za-z])[).:](?!\w))")
_AFTER_WORD = re.compile(
    r"\b(?i:answer|option|choice)\b[\s\"'*]*+(?i:is|:|=)?[\s:\"'*]*"
    r"(?:[(\[]([A-Za-z])[)\]]|([A-Z])\b(?!(?<=A) (?!is\b)[a-z]))"  # not the article of "the answer is A dog"
)
_IN_PARENTHESES = re.compile(r"\(([A-Z])\)")
_SENTENCE = re.compile(r"[^.!?\n]*")


def extract_choice(prediction: str, choices: Sequence[str]) -> int | None:
    """Return the 0-based index of the choice in a prediction; None if it names no choice or several.

    The first rule that applies: the whole text is a letter ("B", "(b)", "B."); it is a choice's text; it begins with a
    letter and a delimiter ("(B) …", "B. …", "B: …"), or with a letter and its choice's text; a letter follows "answer",
    "option" or "choice" ("the answer is (B)"); one letter stands in parentheses; one choice's text occurs as words, of
    nested ones the longest. Texts are compared without case and without a final full stop.
    """
    if bare := _LETTER.fullmatch(prediction):
        return _of_letter(bare[1], len(choices))
    text, texts = _plain_words(prediction), [_plain_words(choice) for choice in choices]
    if text in texts:
        return texts.index(text)
    for index, choice in enumerate(texts):
        if text == f"{chr(ord('a') + index)} {choice}":
            return index
    if match := _FIRST.match(prediction) or _AFTER_WORD.search(prediction):
        return _of_letter(match[1] or match[2], len(choices))
    letters = set(_IN_PARENTHESES.findall(prediction))
    if len(letters) == 1:
        return _of_letter(letters.pop(), len(choices))
    return _of_text(text, texts)


def _of_letter(letter: str, count: int) -> int | None:
    index = ord(letter.upper()) - ord("A")
    return index if index < count else None


def _of_text(text: str, texts: Sequence[str]) -> int | None:
    """Return the one choice whose text occurs in a text, looking for longer choices first and cutting them out."""
    hits = []
    for index in sorted(range(len(texts)), key=lambda index: -len(texts[index])):
        pattern = rf"(?<!\w){re.escape(texts[index])}(?!\w)"
        if texts[index] and re.search(pattern, text):
            hits.append(index)
            text = re.sub(pattern, " ", text)
    return hits[0] if len(hits) == 1 else None


def _plain_words(text: str) -> str:
    return " ".join(text.lower().split()).removesuffix(".").strip("\"'* ")


def parse_yes_no(text: str) -> bool | None:
    """Return True for yes, False for no, None otherwise, from the first sentence that contains a word.

    "Yes" or "no" as its first word; else "no", "not" or "n't" anywhere makes it no, as in POPE's scorer; else "yes"
    anywhere makes it yes.
    """
    sentences = (re.findall(r"[a-z']+", sentence) for sentence in _SENTENCE.findall(text.lower()))
    words = next((words for words in sentences if words), [])
    if words and words[0] in ("yes", "no"):
        return words[0] == "yes"
    if any(word in ("no", "not") or word.endswith("n't") for word in words):
        return False
    return True if "yes" in words else None


def yes_no_answer(answer: str) -> bool:
    """Return whether a true answer is yes; DataError unless it is "yes" or "no", ignoring case."""
    word = answer.strip().lower()
    if word not in ("yes", "no"):
        raise DataError(f"the answer {answer!r} is neither yes nor no")
    return word == "yes"


LARGEST = 1000.0
"""Larger corner values are pixels or another scale, not thousandths."""
_NUMBER = r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)"
_BETWEEN = r"(?:\s*[)\]}>]+)?[\s,;]+(?:[(\[{<]+\s*)?"  # numbers: commas, spaces, or the parentheses of two corners
_LABELLED = rf"(?:[\"']?[xy]\w*[\"']?\s*[:=]\s*)?({_NUMBER})"
_BARE = rf"(?<![\w.+-]){_BETWEEN.join([_LABELLED] * 4)}(?!\.?\d)"
_BOXES = (re.compile(rf"[(\[{{<]\s*{_BARE}"), re.compile(_BARE))
"""Boxes in brackets, which take precedence over other numbers."""


def parse_box(text: str) -> Corners | None:
    """Return the first four consecutive numbers as a box in thousandths, in brackets first; None without a box.

    "[100, 200, 300, 400]", "[100,200,300,400]", "(100,200),(300,400)", "100 200 300 400" and
    "x1=100, y1=200, x2=300, y2=400" are the same. Four numbers up to 1 of which one has a decimal point are fractions
    of the image. A number below 0 or above 1000 is of another scale, so the text then has no box.
    """
    match = next((match for pattern in _BOXES if (match := pattern.search(text))), None)
    if match is None:
        return None
    values = [float(number) for number in match.groups()]
    if max(values) <= 1 and any("." in number for number in match.groups()):
        values = [1000 * value for value in values]
    if min(values) < 0 or max(values) > LARGEST:
        return None
    left, top, right, bottom = values
    return left, top, right, bottom


def scale_box(box: Sequence[float], width: int, height: int) -> Corners:
    """Return a box in pixels as thousandths of an image of this size, at most 999, not rounded."""
    left, top, right, bottom = (
        min(max(1000 * value / side, 0.0), 999.0) for value, side in zip(box, (width, height) * 2, strict=True)
    )
    return left, top, right, bottom


def box_iou(one: Sequence[float], other: Sequence[float]) -> float:
    """Return the intersection over union of two boxes on the same scale, in [0, 1]; 0 for a box without area."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    if width <= 0 or height <= 0:  # a box with swapped corners ends here too
        return 0.0
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return width * height / (areas - width * height)


def predicted_iou(prediction: str, box: Sequence[float]) -> float:
    """Return the IoU of the predicted and the true box, in [0, 1].

    `box`: left, top, right, bottom, in thousandths as the prediction. A prediction without a box, or with swapped
    corners, scores 0. Raises DataError for a true box without area, or that is not four numbers within 0 and 1000.
    """
    if len(box) != 4 or not (0 <= box[0] < box[2] <= LARGEST and 0 <= box[1] < box[3] <= LARGEST):
        raise DataError(f"the true box is {list(box)}; it must be [x, y, x, y] in thousandths, with an area")
    predicted = parse_box(prediction)
    return 0.0 if predicted is None else box_iou(predicted, box)
