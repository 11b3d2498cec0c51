"""The plug-in of lmms-eval, with its base class and registry taken from its files, and in the real package."""

from __future__ import annotations

import abc
import json
import os
import subprocess
import sys
import tomllib
import types
import typing
from importlib.metadata import EntryPoint
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from perception_encoder.errors import ConfigError, MediaDecodeError
from perception_encoder.inference.model_spec import ModelSpec
from perception_encoder.language_alignment import lmms_eval_adapter
from perception_encoder.language_alignment.lmms_eval_adapter import read_messages, sampling_of
from perception_encoder.language_alignment.load import load_language_model
from perception_encoder.preprocess.conversation import Sampling, ask
from perception_encoder.preprocess.frames import plm_frame_indices
from tests.clips import clip, number_of
from tests.conftest import ROOT
from tests.evaluation.language.lmms import lmms_file, lmms_functions
from tests.language_alignment.test_weights import write_file
from tests.language_models import tiny_language_model

IMAGES = [Image.effect_noise((64, 64), 30 * (n + 1)) for n in range(3)]


@pytest.fixture
def lmms_eval(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """The registry of lmms-eval; its base class can be imported."""
    names = {name: getattr(typing, name) for name in ("List", "Optional", "Tuple", "Type", "TypeVar")}
    given = {**names, "abc": abc, "T": typing.TypeVar("T"), "Instance": object, "utils": None}
    functions = lmms_functions("api/model.py", "lmms", "CacheHook", **given)
    model = types.ModuleType("lmms_eval.api.model")
    model.lmms = functions["lmms"]
    spec = spec_from_file_location("lmms_eval.models.registry_v2", lmms_file("models/registry_v2.py"))
    registry = module_from_spec(spec)
    for name in ("lmms_eval", "lmms_eval.api", "lmms_eval.models"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, "lmms_eval.api.model", model)
    monkeypatch.setitem(sys.modules, "lmms_eval.models.registry_v2", registry)
    spec.loader.exec_module(registry)
    return registry


def entry_point() -> EntryPoint:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    ((name, value),) = project["entry-points"]["lmms_eval.models"].items()
    return EntryPoint(name, value, "lmms_eval.models")


@pytest.fixture
def plugin(lmms_eval: types.ModuleType, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The class as lmms-eval finds it, whose model is the tiny one."""
    registry = lmms_eval.ModelRegistryV2()
    registry._select_entry_points = lambda group: [entry_point()] if group == "lmms_eval.models" else []
    registry.load_entrypoint_manifests()
    monkeypatch.setattr(
        lmms_eval_adapter, "load_language_model", lambda _, tiles: tiny_language_model(tiles=tiles or 4)
    )
    return registry.get_model_class("perception_encoder")


def request(number: int, images: list[Any], text: str, **settings: Any) -> types.SimpleNamespace:
    """A request of a task `t` about its sample `number`, as `ConfigurableMessagesTask` makes it."""
    content = [{"type": "image", "url": image} for image in images] + [{"type": "text", "text": text}]
    arguments = (
        text,
        lambda row: [{"role": "user", "content": row}],
        {"max_new_tokens": 8, **settings},
        number,
        "t",
        "test",
    )
    return types.SimpleNamespace(args=arguments, row=content)


def answers(model: Any, requests: list[Any]) -> list[str]:
    model.task_dict = {"t": {"test": [item.row for item in requests]}}
    return model.generate_until(requests)


def test_answers_keep_the_order_of_the_requests_and_reach_the_cache(plugin: Any) -> None:
    lengths = [4, 8, 4, 8, 4]
    requests = [request(n, [IMAGES[n % 3]], f"{n}?", max_new_tokens=count) for n, count in enumerate(lengths)]
    model = plugin("tiny", batch_size="2", max_batch_size=None, device=None)
    partial: list[tuple[Any, ...]] = []
    model.cache_hook = types.SimpleNamespace(add_partial=lambda *given: partial.append(given))
    texts = answers(model, requests)
    assert texts == [
        answers(plugin("tiny"), [request(0, [IMAGES[n % 3]], f"{n}?", max_new_tokens=count)])[0]
        for n, count in enumerate(lengths)
    ]
    assert sorted(partial, key=lambda item: item[1][0])[1] == (
        "generate_until",
        ("1?", {"max_new_tokens": 8}),
        texts[1],
    )


@pytest.mark.parametrize(
    ("settings", "sampling"),
    [
        ({}, Sampling(max_tokens=256)),
        (
            {"max_new_tokens": 16, "temperature": 0, "top_p": None, "num_beams": 1, "do_sample": False},
            Sampling(max_tokens=16),
        ),
        ({"temperature": 0.7, "top_p": 0.9, "do_sample": True}, Sampling(temperature=0.7, top_p=0.9)),
        ({"temperature": 0.7, "do_sample": False}, Sampling()),
        ({"until": "\n\n"}, Sampling(stop=("\n\n",))),
        ({"until": ["\n", "", "ASSISTANT:"]}, Sampling(stop=("\n", "ASSISTANT:"))),
    ],
)
def test_the_settings_of_a_task(settings: dict[str, Any], sampling: Sampling) -> None:
    assert sampling_of(settings) == sampling


def test_media_are_opened_in_their_order(tmp_path: Path) -> None:
    IMAGES[0].save(tmp_path / "a.png")
    (tmp_path / "b.mp4").write_bytes(clip(60))
    content = [
        {"type": "text", "text": "first"},
        {"type": "image", "url": str(tmp_path / "a.png")},
        {"type": "video", "url": str(tmp_path / "b.mp4"), "start_time": 1.0, "end_time": None},
        {"type": "text", "text": "last"},
    ]
    system = {"role": "system", "content": [{"type": "text", "text": "Be brief."}]}
    first, second = read_messages([system, {"role": "user", "content": content}], tiny_language_model(), frames=4)
    assert (first.role, first.content) == ("system", ("Be brief.",))
    head, image, video, tail = second.content
    assert (head, tail, image.mode) == ("first", "last", "RGB")
    assert [number_of(frame) for frame in video.images] == plm_frame_indices(60, 25, 4, 1.0)
    with pytest.raises(ConfigError, match="a sample contains audio; only texts, images and videos are supported"):
        read_messages([{"role": "user", "content": [{"type": "audio", "url": "a.wav"}]}], tiny_language_model())
    (tmp_path / "bad.png").write_bytes(b"no image")
    with pytest.raises(MediaDecodeError, match=r"bad\.png"):
        read_messages(
            [{"role": "user", "content": [{"type": "image", "url": str(tmp_path / "bad.png")}]}], tiny_language_model()
        )


def test_other_kinds_of_tasks_are_refused(plugin: Any) -> None:
    with pytest.raises(ConfigError, match="log-likelihood are unsupported"):
        plugin("tiny").loglikelihood([])
    with pytest.raises(ConfigError, match="several rounds are unsupported"):
        plugin("tiny").generate_until_multi_round([])


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
TASK_MODULE = """from PIL import Image


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
    write_file(tmp_path / "model.safetensors")
    language = load_language_model(ModelSpec(tmp_path / "model.safetensors", "cpu"))
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
    (tmp_path / "local_task.py").write_text(TASK_MODULE)
    environment = {**os.environ, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1"}
    ran = subprocess.run([sys.executable, "-c", RUN], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-2000:]
    found = json.loads((tmp_path / "results.json").read_text())
    assert found == {"answers": answers, "score": pytest.approx(1 / 3)}
