"""Score short answers: VQA accuracy, relaxed accuracy of charts, and ANLS of documents.

VQA accuracy: an answer is right in so far as people gave it too, after EvalAI's normalisation. Source: Antol et al.,
"VQA: Visual Question Answering", ICCV 2015, and the answer processor of MMF, which repeats what the EvalAI server does
to TextVQA's answers. Its oddities are repeated too, because published results contain them: the pattern meant to spare
decimal points has a misspelled lookbehind, and it removes at most 32 full stops.

Relaxed accuracy: numbers may be off by 5 %, other answers must be equal. Source: Masry et al., "ChartQA", ACL 2022,
section 5.1, after Methani et al., "PlotQA", WACV 2020; the conversion of percent signs and the treatment of 0 follow
the scorer that published results were computed with (pix2struct, Qwen-VL).

ANLS: the similarity by edit distance. Source: Biten et al., "Scene Text Visual Question Answering", ICCV 2019, and the
evaluation server of DocVQA (rrc.cvc.uab.es). The server divides by the length of the texts before surrounding spaces
are removed, and so gives a wrong answer with spaces a better score; here both texts are normalised first, and their
lengths are those compared.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from perception_encoder.errors import DataError, MissingExtraError

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
"""A word without its apostrophe → the word that it stands for."""
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
    """Remove punctuation beside a space anywhere in the text; put a space for one that only joins words."""
    cleaned = text
    for mark in PUNCTUATION:
        beside_space = f"{mark} " in text or f" {mark}" in text or _GROUPED_DIGITS.search(text)
        cleaned = cleaned.replace(mark, "" if beside_space else " ")
    return _FULL_STOP.sub("", cleaned, count=_MOST_FULL_STOPS)


def vqa_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """Return the VQA accuracy of a prediction, in [0, 1]: how far people agree with it.

    The mean over the people's answers, each left out in turn, of min(n / 3, 1), n being how many of the others equal
    the prediction. Of 10 answers, 1, 2, 3 and 4 equal ones give 0.3, 0.6, 0.9 and 1. Both sides are normalised (see
    `normalize_answer`). A single answer leaves no other one and scores 0. Raises DataError without answers.
    """
    if not answers:
        raise DataError("VQA accuracy needs people's answers, not an empty list")
    normalized = normalize_answer(prediction)
    same = [normalize_answer(answer) == normalized for answer in answers]
    return sum(min((sum(same) - own) / 3, 1.0) for own in same) / len(answers)


def relaxed_accuracy(prediction: str, answer: str, tolerance: float = 0.05) -> float:
    """Return 1 if the prediction is right, else 0.

    Two numbers: |prediction − answer| / |answer| must be at most the tolerance; "7%" is 0.07. Otherwise, and for an
    answer of 0, whose relative error is undefined, both texts must be equal in lower case, without surrounding spaces.
    "nan" and "inf" are texts.
    """
    value, expected = _number(prediction), _number(answer)
    if value is not None and expected:
        return float(abs(value - expected) / abs(expected) <= tolerance)
    return float(prediction.strip().lower() == answer.strip().lower())


def _number(text: str) -> float | None:
    text = text.strip()
    try:
        value = float(text.rstrip("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def anls(prediction: str, answers: Sequence[str], threshold: float = 0.5) -> float:
    """Return the average normalised Levenshtein similarity of one question: 0, or in [`threshold`, 1].

    The best over the answers of 1 − distance / length of the longer text, both in lower case, stripped, with single
    spaces; 0 if it is below the threshold. Like the server, exactly the threshold still counts, which the paper's
    formula excludes. Two empty texts are equal. Raises DataError without answers, MissingExtraError without rapidfuzz.
    """
    if not answers:
        raise DataError("ANLS needs at least one answer, not an empty list")
    try:
        from rapidfuzz.distance import Levenshtein
    except ImportError:
        raise MissingExtraError("rapidfuzz", "lang") from None
    text = _normalize(prediction)
    best = max(Levenshtein.normalized_similarity(text, _normalize(answer)) for answer in answers)
    return float(best) if best >= threshold else 0.0


def _normalize(text: str) -> str:
    return " ".join(text.lower().split())
