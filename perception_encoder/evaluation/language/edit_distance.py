"""ANLS: the similarity by edit distance of document question answering.

Source: Biten et al., "Scene Text Visual Question Answering", ICCV 2019, and the evaluation server of DocVQA
(rrc.cvc.uab.es). The server divides by the length of the texts before surrounding spaces are removed, and so gives a
wrong answer with spaces a better score; here both texts are normalised first, and their lengths are those compared.
"""

from __future__ import annotations

from collections.abc import Sequence

from perception_encoder.errors import DataError, MissingExtraError

THRESHOLD = 0.5


def anls(prediction: str, answers: Sequence[str], threshold: float = THRESHOLD) -> float:
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
