"""The plug-in in the real lmms-eval, on a local task."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from PIL import Image

from perception_encoder.language_alignment.load import load_language_model
from perception_encoder.language_alignment.weights import build_language_model, write_language_model
from perception_encoder.preprocess.conversation import Sampling, ask
from tests.language_alignment.test_weights import parts

NEEDED = ("lmms_eval", "loguru", "sacrebleu", "evaluate", "pytz", "filelock._api")
"""Modules that lmms-eval imports; filelock has the last one up to version 3."""
TASK = """
task: local
dataset_path: json
dataset_kwargs:
  data_files: {test: questions.jsonl}
test_split: test
output_type: generate_until
doc_to_visual: !function local_task.images
doc_to_text: "{{question}}"
doc_to_target: "{{answer}}"
generation_kwargs: {max_new_tokens: 6, until: ["~~"]}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
"""
IMAGES = """from PIL import Image


def images(row):
    return [Image.open(name) for name in row["images"]]
"""
RUN = """
import json
from lmms_eval.evaluator import simple_evaluate
from lmms_eval.tasks import TaskManager

tasks = TaskManager(include_path=".", include_defaults=False)
found = simple_evaluate(
    "perception_encoder", model_args="pretrained=model.safetensors,device=cpu", tasks=["local"], task_manager=tasks
)
answers = [sample["resps"][0][0] for sample in sorted(found["samples"]["local"], key=lambda each: each["doc_id"])]
with open("results.json", "w") as file:
    json.dump({"answers": answers, "score": found["results"]["local"]["exact_match,none"]}, file)
"""


@pytest.mark.usefixtures("float32")
def test_the_real_package_evaluates_a_local_task(tmp_path: Path) -> None:
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        pytest.skip(f"needs lmms-eval with what it imports and filelock<4: {', '.join(missing)} is missing")
    model_parts = parts(tmp_path)
    model, _ = build_language_model(model_parts, torch.Generator().manual_seed(0))
    write_language_model(tmp_path / "model.safetensors", model_parts, model, vision=False, decoder=False)
    language = load_language_model(tmp_path / "model.safetensors", "cpu")
    rows, answers = [], []
    for number, count in enumerate((1, 2, 1)):
        names = [f"{number}-{at}.png" for at in range(count)]
        images = [Image.new("RGB", (40, 40), (90 * number, 60 * at, 20)) for at in range(count)]
        for name, image in zip(names, images, strict=True):
            image.save(tmp_path / name)
        rows.append({"images": names, "question": f"What is in {number}?", "answer": "it"})
        answers.append(language.generate([ask(rows[-1]["question"], images)], Sampling(max_tokens=6))[0].text)
    rows[1]["answer"] = answers[1]
    (tmp_path / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "local.yaml").write_text(TASK)
    (tmp_path / "local_task.py").write_text(IMAGES)
    environment = {**os.environ, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1"}
    ran = subprocess.run([sys.executable, "-c", RUN], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-2000:]
    found = json.loads((tmp_path / "results.json").read_text())
    assert found == {"answers": answers, "score": pytest.approx(1 / 3)}
