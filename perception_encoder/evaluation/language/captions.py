"""Caption metrics over a corpus: CIDEr-D and BLEU, equal to pycocoevalcap's on equal words.

Sources: Vedantam et al., "CIDEr: Consensus-based Image Description Evaluation", CVPR 2015 (CIDEr-D: clipped counts, a
Gaussian on the difference of lengths); Papineni et al., "BLEU", ACL 2002. pycocoevalcap calls its CIDEr-D "CIDEr", as
papers do.

Its tokenizer is PTBTokenizer 3.4.1, in lower case and without punctuation, which needs Java. This one does not:
contractions are split ("is n't"), hyphenated words stay whole, "US$" and "R&D" are words, dashes are not, and brackets
become words ("-lrb-"; the original list would remove them in upper case only). It is not equal: its words are the
original's for all of COCO's captions that we have, and for about 97 of 100 captions with random marks put into them; it
differs where marks are inside words, as in "bn'ty" and "A... dog".
Source: Marcus et al., "Building a Large Annotated Corpus of English: The Penn Treebank", 1993, and Chen et al.,
"Microsoft COCO Captions", 2015.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

# fmt: off
REMOVED = frozenset({"''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "---", "----", "...", ";", '"'})
"""Punctuation that is not scored; unlike "!!" and similar, or five or more dashes."""
_BRACKETS = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
_PLAIN = str.maketrans({
    "’": "'", "‘": "'", "“": '"', "”": '"', "–": " -- ", "—": " -- ", "…": "...", "£": " # ", "€": " $ ",
    "¢": " cents ", "½": " 1/2 ", "¼": " 1/4 ", "¾": " 3/4 ", "⅓": " 1/3 ", "⅔": " 2/3 ",
})
_ENTITIES = {"&amp;": "&", "&lt;": "<", "&gt;": ">", "&quot;": '"'}
_SPLIT = {
    "cannot": ("can", "not"), "gonna": ("gon", "na"), "gotta": ("got", "ta"), "wanna": ("wan", "na"),
    "gimme": ("gim", "me"), "lemme": ("lem", "me"), "'tis": ("'t", "is"), "'twas": ("'t", "was"),
}
_ABBREVIATIONS = (
    "mr mrs ms dr drs prof profs sen sens rep reps atty lt col gen messrs gov govs adm rev maj sgt cpl pvt mt "
    "capt ste st ave pres lieut hon brig comdr pfc spc supt det jr sr bros blvd rd esq inc cos co corp ltd plc "
    "dept assn univ intl sys jan feb mar apr jun jul aug sep sept oct nov dec mon tue tues wed thu thurs fri etc "
    "est vs ft p al cf calif fla ind kan ky mich minn mo mont neb nev okla penn tenn va vt wis wyo ariz ala colo "
    "conn ga alex ct sq tel ext mfg natl"
).replace(" ", "|")
# fmt: on
_LETTER = r"[^\W\d_]"
_WORD = (
    rf"(?:\b(?:[dol]'(?={_LETTER}{{2}})|qu'(?={_LETTER})))?[^\W_]+"
    rf"(?:[-/_][^\W_]+|\.{_LETTER}+|(?<={_LETTER})[?!]{_LETTER}+|'(?:s|m|d|t|ll|ve|re|am)\b)*"
)
_TOKEN = re.compile(
    rf"""(?:https?://|www\.)[^\s"<>|()]*[^\s"<>|().,!?;:]       # an address of the web
    | [\w.+-]+@[\w-]+(?:\.[\w-]+)*                              # an e-mail address
    | </?[a-z][^<>]*>                                           # a tag
    | (?-i:[A-Z]+\$)                                            # US$
    | [#@][a-z_]\w*
    | (?-i:[<>]?[:;=][-o*']?[()DPdpO\\{{@|\[\]])(?!\w)            # an emoticon
    | '(?:n'|cause\b) | (?<!\w)'(?:em\b|til\b|tis\b|twas\b|\d\ds\b)
    | '(?:s|m|d|ll|ve|re)\b(?!')                                # of a number, or standing alone
    | \b(?:[yj]'(?={_LETTER})|[ld]'(?={_LETTER}\b)(?!'[smdt]))    # y' all
    | \b(?:{_ABBREVIATIONS})\.(?!\w) | \bno\.(?=\s?\d)          # their full stop belongs to them
    | (?:\b(?:[a-z]\.){{2,}}(?!\w)|\bph\.d\.|\b[a-z]\.(?=\s|$))
    | \d+(?::\d+)+(?=[a-z])                                     # 10:30 am
    | (?:(?<![^\s$])[-+])?\d+(?:[-.,:/]\d+)*(?![\w-]|/\w) | [.,]\d+(?:[.,]\d+)*(?![\w-])
    | \bc\+\+ | \b[cf]\#
    | (?-i:[A-Z]+(?:[&+][A-Z]+)+)                               # R&D
    | {_WORD}(?:\.(?=[,;:]))?                                   # before a comma it belongs to any word
    | \.\.\. | --+ | [!?]+ | \*+ | _+ | \S""",
    re.VERBOSE | re.IGNORECASE,
)
_CONTRACTION = re.compile(r"(.+?)('s|'m|'d|'ll|'ve|'re|n't)$")


def tokenize_caption(text: str) -> list[str]:
    """Return the words of a caption that COCO's evaluation counts, in lower case without punctuation."""
    for entity, character in _ENTITIES.items():
        text = text.replace(entity, character)
    text = "".join(character for character in text if ord(character) < 0x10000)  # emoji are left out
    words = [word for token in _TOKEN.findall(text.translate(_PLAIN)) for word in _split(token.lower())]
    return [word for word in words if word not in REMOVED]


def _split(token: str) -> Sequence[str]:
    """Split contractions off a token, starting at its end."""
    if token in _SPLIT:
        return _SPLIT[token]
    if token in _BRACKETS:
        return (_BRACKETS[token],)
    if len(token) > 1 and token[-1] in "()":
        return (token[:-1] + _BRACKETS[token[-1]],)
    endings: list[str] = []
    while match := _CONTRACTION.fullmatch(token):
        token = match[1]
        endings.append(match[2])
    return [token, *reversed(endings)]


ORDERS = 4
"""Maximum n-gram length."""
SIGMA = 6.0
"""Standard deviation of the Gaussian over length differences, in words."""
_TINY, _SMALL = 1e-15, 1e-9  # pycocoevalcap's guards against a division by 0

_Gram = tuple[str, ...]


def cider_d_scores(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
    """Return the CIDEr-D of each image's caption, (n,), each in [0, 10].

    10 times the mean over n-gram lengths 1 to 4 and over an image's references of the cosine of both captions' tf-idf
    vectors, the prediction's entries clipped to the reference's, times exp(−(difference of lengths)² / (2 · 6²)). An
    n-gram's weight is log(images / images with it in a reference), so the scores depend on all images together, and are
    0 for a single one.
    """
    grams = [_count(tokenize_caption(prediction)) for prediction in predictions]
    other_grams = [[_count(tokenize_caption(caption)) for caption in those] for those in references]
    seen = Counter(gram for those in other_grams for gram in {gram for caption in those for gram in caption})
    total = float(np.log(float(len(grams))))
    weights = {gram: float(total - np.log(float(count))) for gram, count in seen.items()}

    def vectors(counts: Counter[_Gram]) -> tuple[dict[_Gram, float], np.ndarray, int]:
        """Return tf-idf values, their norms by n-gram length, and the number of bigrams, the reference's length."""
        values = {gram: count * weights.get(gram, total) for gram, count in counts.items()}
        norms = np.zeros(ORDERS)
        for gram, value in values.items():
            norms[len(gram) - 1] += value**2
        return values, np.sqrt(norms), sum(count for gram, count in counts.items() if len(gram) == 2)

    def similarity(one: Counter[_Gram], other: Counter[_Gram]) -> float:
        """Return the mean clipped cosine over n-gram lengths, reduced for different caption lengths."""
        (values, norms, length), (theirs, their_norms, their_length) = vectors(one), vectors(other)
        products, scale = np.zeros(ORDERS), norms * their_norms
        for gram, value in values.items():
            their = theirs.get(gram, 0.0)
            products[len(gram) - 1] += min(value, their) * their
        cosines = np.divide(products, scale, out=products, where=scale != 0)
        return float((cosines * np.exp(-((length - their_length) ** 2) / (2 * SIGMA**2))).mean())

    rows = zip(grams, other_grams, strict=True)
    return np.array([10 * np.mean([similarity(one, caption) for caption in those]) for one, those in rows])


def bleu_counts(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
    """Return BLEU's sums per image (n, 10): correct n-grams, all n-grams, length, closest reference length."""
    counts = np.zeros((len(predictions), 2 * ORDERS + 2))
    for row, (text, texts) in enumerate(zip(predictions, references, strict=True)):
        prediction, those = tokenize_caption(text), [tokenize_caption(caption) for caption in texts]
        most: Counter[_Gram] = Counter()
        for caption in those:
            most |= _count(caption)
        for gram, count in _count(prediction).items():
            counts[row, len(gram) - 1] += min(count, most[gram])
        counts[row, ORDERS : 2 * ORDERS] = [max(0, len(prediction) - order) for order in range(ORDERS)]
        counts[row, -2:] = (
            len(prediction),
            min((abs(len(caption) - len(prediction)), len(caption)) for caption in those)[1],
        )
    return counts


def bleu_of_counts(sums: np.ndarray) -> np.ndarray:
    """Return BLEU-1 to -4, (…, 4), each in [0, 1], from sums of `bleu_counts` over images, (…, 10).

    BLEU-n is the geometric mean of the clipped precisions of 1- to n-grams over the whole corpus, times
    exp(1 − r / c) if the captions' length c is below r, the sum of the references' lengths that are closest to each.
    """
    right, guessed = sums[..., :ORDERS], sums[..., ORDERS : 2 * ORDERS]
    products = np.cumprod((right + _TINY) / (guessed + _SMALL), axis=-1)
    ratio = (sums[..., -2:-1] + _TINY) / (sums[..., -1:] + _SMALL)
    return np.asarray(products ** (1 / np.arange(1, ORDERS + 1)) * np.exp(np.minimum(0, 1 - 1 / ratio)))


def _count(words: Sequence[str]) -> Counter[_Gram]:
    """Count the n-grams of all lengths."""
    lengths = range(1, ORDERS + 1)
    return Counter(tuple(words[start : start + n]) for n in lengths for start in range(len(words) - n + 1))
