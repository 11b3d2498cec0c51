"""Documents by seed: the same everywhere, words where the ink is, printed answers, splits that share nothing."""

from __future__ import annotations

import hashlib
import subprocess
import sys

import numpy as np
import pytest

from synthetic.documents.canvas import Canvas
from synthetic.documents.document import KINDS, Document, document
from synthetic.documents.fonts import FAMILIES
from synthetic.documents.looks import LOOKS
from synthetic.documents.vocabulary import held_out_words


def summary(drawn: Document) -> str:
    rest = repr((drawn.kind, drawn.look, drawn.content, drawn.words, drawn.questions))
    return hashlib.sha256(drawn.image.tobytes() + rest.encode()).hexdigest()


def test_a_seed_gives_the_same_document_in_another_process() -> None:
    code = (
        "import tests.synthetic.documents.test_document as t; from synthetic.documents.document import document;"
        "print(*(t.summary(document((3, number), size=256)) for number in range(8)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for number in reversed(range(4)):  # what was drawn before does not matter
        document(number)
    summaries = [summary(document((3, number), size=256)) for number in range(8)]
    assert run.stdout.split() == summaries and len(set(summaries)) == 8


@pytest.mark.parametrize("kind", KINDS)
def test_the_ink_of_each_word_is_inside_its_box(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The difference to the same document without words."""
    render = Canvas.render
    for look in LOOKS:
        full = document(0, kind, look=look, size=(384, 320))
        with monkeypatch.context() as patch:
            patch.setattr(Canvas, "render", lambda canvas: render(canvas, with_words=False))
            empty = document(0, kind, look=look, size=(384, 320))
        assert full.image.size == (384, 320) and full.image.mode == "RGB"
        ink = np.abs(np.asarray(full.image, dtype=int) - np.asarray(empty.image)).max(-1)
        blurred = look in ("print", "photo")  # blur and the blocks of a JPEG carry a little ink over the edges
        ink = ink > (60 if blurred else 8)
        outside = ink.copy()
        for _, (left, top, right, bottom) in full.words:
            assert 0 <= left < right <= 384 and 0 <= top < bottom <= 320
            assert ink[top:bottom, left:right].any()
            edge = 2 if blurred else 0
            outside[max(0, top - edge) : bottom + edge, max(0, left - edge) : right + edge] = False
        assert not outside.any()


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_with_a_box_is_printed_there(kind: str, split: str, draw_many, printed) -> None:
    for drawn in draw_many(kind, split, 15):
        assert len(drawn.questions) >= 3
        assert len({question for question, *_ in drawn.questions}) == len(drawn.questions)
        for question, answer, box, _ in drawn.questions:
            assert question.endswith("?") and 0 < len(answer) < 60
            if box is not None:
                assert printed(drawn, box) == answer, question


@pytest.mark.parametrize("kind", KINDS)
def test_test_shares_no_layout_font_or_held_out_word_with_train(kind: str, draw_many) -> None:
    drawn = {split: draw_many(kind, split) for split in ("train", "val", "test")}
    layouts = {split: {item.layout for item in documents} for split, documents in drawn.items()}
    fonts = {split: {name for item in documents for name in item.fonts} for split, documents in drawn.items()}
    texts = {
        split: " ".join(word.text for item in documents for word in item.words).lower().split()
        for split, documents in drawn.items()
    }
    held_out = held_out_words()
    for split in ("train", "val"):
        assert not layouts[split] & layouts["test"] and not fonts[split] & fonts["test"]
        assert not held_out & set(texts[split])
    assert layouts["train"] == layouts["val"] and len(layouts["train"]) >= 3
    assert held_out & set(texts["test"])
    assert fonts["test"] <= {family.name for family in FAMILIES if family.test}
