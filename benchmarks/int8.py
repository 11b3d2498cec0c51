"""What int8 costs: similarity to float32 for every architecture, other ways to quantise, scores of the built-in models.

    python -m benchmarks.int8 [PART ...] [--photos DIR] [--captions FILE] [--scenes DIR] [--out docs/results/int8.json]

Parts: towers (each published architecture with random weights, and the built-in model, on photographs), methods (other
ways to quantise, with their speed), builtin (zero-shot, k-NN and retrieval, paired with float32; labelled photographs,
and COCO captions with their images beside them), language (answers of builtin-lang, paired as well; what
`synthetic.scenes` rendered). A part that runs replaces its own results only. `towers` needs 16 GB; of PE-Core-G14 it
takes a third of the blocks.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from dataclasses import replace
from functools import partial
from io import StringIO
from pathlib import Path
from statistics import median
from typing import Any

import nncf
import numpy as np
import openvino
import torch
from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters, AdvancedSmoothQuantParameters
from nncf.quantization.range_estimator import RangeEstimatorParametersSet

from benchmarks.encode.case import photographs
from benchmarks.results import machine, report
from perception_encoder import evaluations
from perception_encoder.evaluation.language.evaluators import QuestionEvaluator
from perception_encoder.evaluation.results import Result, compare_results
from perception_encoder.inference.load import load
from perception_encoder.inference.model_spec import ModelSpec
from perception_encoder.language_models.load import load_language_model
from perception_encoder.models.checkpoints.weights import build, load_model, weight_hash
from perception_encoder.models.config import VisionConfig
from perception_encoder.models.initialization import initialize
from perception_encoder.models.registry import BUILTIN, BUILTIN_LANG, MODELS, ModelEntry
from perception_encoder.runtime.convert import to_openvino, tower_of
from perception_encoder.runtime.openvino_towers import OpenVinoTowers
from perception_encoder.runtime.program import Program
from perception_encoder.runtime.quantization import calibration_pixels, check, check_ids, quantize
from perception_encoder.runtime.torch_towers import TorchTowers, describe
from synthetic.questions.tasks import find_task, read_rendered

PHOTOS, BATCH = 32, 4
LARGE_DEPTH = 16
"""Blocks of PE-Core-G14-448 that are measured: all 50 need more than 24 GB while they are converted."""
METHOD_MODELS = (BUILTIN, "PE-Core-T16-384", "PE-Core-B16-224")
QUESTIONS, QUESTION_SPLIT = 500, "val"
PRECISIONS = ("float32", "int8")
CPU = torch.device("cpu")


def measure_towers(arguments: argparse.Namespace) -> dict[str, Any]:
    """Lowest cosine and kept neighbours of each architecture's towers."""
    found: dict[str, Any] = {}
    for entry in reversed(MODELS.values()):  # the smallest first
        if not entry.vision.attention_pool or not entry.text or entry.name in arguments.skip:
            continue  # without texts, it gives tokens, which are never int8
        name = entry.name
        if entry.vision.depth > LARGE_DEPTH * 2:
            entry = replace(entry, vision=replace(entry.vision, depth=LARGE_DEPTH))
            name = f"{name}, {LARGE_DEPTH} blocks"
        found[name] = measure_model(entry)
        print(name, found[name], flush=True)
    return {"photographs": PHOTOS, "models": found}


def measure_model(entry: ModelEntry) -> dict[str, Any]:
    """Compare both towers of a model in int8 with float32 in torch."""
    model = model_of(entry)
    exact = TorchTowers(model, CPU, torch.float32)
    fast = OpenVinoTowers(describe(model, weight_hash(model)), "int8", lambda: model)
    last = entry.vision.depth - 1
    pixels = photographs(PHOTOS, entry.vision.image_size)
    parts = [exact.embed_pixels(part, last, "attn") for part in np.split(pixels, PHOTOS // BATCH)]
    ids = check_ids(model.text.config.context_length)
    compared = {
        "image": (fast.embed_pixels(pixels, last, "attn"), np.concatenate(parts)),
        "text": (fast.embed_ids(ids), exact.embed_ids(ids)),
    }
    verdicts = {tower: check(*outputs) for tower, outputs in compared.items()}
    return {tower: {"cosine": one.cosine, "kept neighbours": one.agreement} for tower, one in verdicts.items()}


def model_of(entry: ModelEntry) -> Any:
    """Return a built-in model, or another with random weights."""
    if entry.builtin:
        return load_model(entry.name)
    model = build(entry).to_empty(device="cpu")
    initialize(model, torch.Generator().manual_seed(0))
    return model.eval()


PATCHES = ".*conv1.*"
ATTENTION = (".*attn_pool.*", ".*aten::matmul.*", ".*scaled_dot_product_attention.*")
METHODS: dict[str, dict[str, Any]] = {
    "static, as the package does it": {},
    "8 calibration images instead of 36": {"images": 8},
    "first and last block in float": {"ends": True},
    "patch embedding in int8": {"floats": ATTENTION},
    "attention and its pooling in int8": {"floats": (PATCHES,)},
    "SmoothQuant": {"smooth": True},
    "clipped ranges": {"clipped": True},
    "nncf's default for transformers": {"floats": (), "smooth": True, "clipped": True},
}
DYNAMIC = "int8 weights only, activations as they come"


def measure_methods(arguments: argparse.Namespace) -> dict[str, Any]:
    """Lowest cosine on photographs, and images a second in turns, of image towers in bfloat16 and int8."""
    found = {}
    for name in METHOD_MODELS:
        found[name] = compare_methods(MODELS[name], arguments.seconds)
        print(name, {method: (one["cosine"], median(one["speeds"])) for method, one in found[name].items()}, flush=True)
    return {"photographs": PHOTOS, "models": found}


def compare_methods(entry: ModelEntry, seconds: float) -> dict[str, Any]:
    """Quantise an image tower in all ways, and run them in turns; built-in models with their weights."""
    model = model_of(entry)
    source, size = tower_of(model, "image"), entry.vision.image_size
    exact = to_openvino(source)
    pixels = photographs(PHOTOS, size)
    expected = np.concatenate([source.run(part) for part in np.split(pixels, PHOTOS // BATCH)])
    makers: dict[str, Callable[[], Any]] = {
        "bfloat16": exact.clone,
        DYNAMIC: lambda: quantize(exact.clone(), "weights"),
        **{name: partial(quantize_with, exact, entry.vision, **changes) for name, changes in METHODS.items()},
    }
    core, programs = openvino.Core(), {}
    with tempfile.TemporaryDirectory() as directory:
        for number, (name, make) in enumerate(makers.items()):
            path = Path(directory) / f"{number}.xml"
            openvino.save_model(make(), path)
            programs[name] = Program(core, path, "bfloat16" if name == "bfloat16" else "int8", (1, 3, size, size))
        found: dict[str, dict[str, Any]] = {
            name: {"cosine": check(one(pixels), expected).cosine, "speeds": []} for name, one in programs.items()
        }
        begin = time.perf_counter()
        while time.perf_counter() - begin < seconds:
            for name, program in programs.items():
                start = time.perf_counter()
                program(pixels[: 2 * BATCH])
                found[name]["speeds"].append(round(2 * BATCH / (time.perf_counter() - start), 3))
    return found


def quantize_with(
    model: Any,
    config: VisionConfig,
    images: int = 36,
    floats: tuple[str, ...] = (PATCHES, *ATTENTION),
    ends: bool = False,
    smooth: bool = False,
    clipped: bool = False,
) -> Any:
    """Quantise statically; without changes, as `perception_encoder.runtime.quantization` does.

    `floats`: names of what stays in float. `ends`: keep the first and last block in float as well. `clipped`: take the
    mean of the images' ranges rather than the widest.
    """
    blocks = (rf".*resblocks\.{number}[./].*" for number in (0, config.depth - 1))
    widest = {} if clipped else {"activations_range_estimator_params": RangeEstimatorParametersSet.MINMAX}
    smoothing = AdvancedSmoothQuantParameters(convolution=-1, matmul=0.95 if smooth else -1)
    samples = calibration_pixels(config.image_size, config.image_size)[:images]
    with redirect_stdout(StringIO()):
        return nncf.quantize(
            model.clone(),
            nncf.Dataset([sample[None] for sample in samples]),
            preset=nncf.QuantizationPreset.MIXED,
            model_type=nncf.ModelType.TRANSFORMER,
            subset_size=images,
            ignored_scope=nncf.IgnoredScope(patterns=[*floats, *(blocks if ends else ())], validate=False),
            advanced_parameters=AdvancedQuantizationParameters(smooth_quant_alphas=smoothing, **widest),
        )


def measure_builtin(arguments: argparse.Namespace) -> dict[str, Any]:
    """Scores of the built-in encoder in int8 less those in float32, over the same items."""
    if not (arguments.photos and arguments.captions):
        return {}
    results = []
    for precision in PRECISIONS:
        encoder = load(BUILTIN, runtime="openvino", precision=precision)
        taken = (
            evaluations.classification(encoder, arguments.photos, prompts="photo", transform="squash"),
            evaluations.knn(encoder, arguments.photos, transform="squash"),
            evaluations.retrieval(encoder, arguments.captions, media=arguments.captions.parent, transform="squash"),
        )
        results.append(taken)
    return {"rows": [row for exact, narrow in zip(*results, strict=True) for row in differences(narrow, exact)]}


def measure_language(arguments: argparse.Namespace) -> dict[str, Any]:
    """Scores of the built-in language model's answers in int8 less those in float32."""
    if not arguments.scenes:
        return {}
    task = find_task("scenes")
    questions = read_rendered("scenes", arguments.scenes, QUESTION_SPLIT)
    kept = [questions[row] for row in np.random.default_rng(0).permutation(len(questions))[:QUESTIONS]]
    results, texts = [], []
    for precision in PRECISIONS:
        model = load_language_model(ModelSpec(BUILTIN_LANG, runtime="openvino", precision=precision))
        with tempfile.TemporaryDirectory() as directory:
            records = Path(directory) / "answers.jsonl"
            scores = tuple(QuestionEvaluator(task, kept, records).run(model))
            texts.append([json.loads(line)["prediction"] for line in records.read_text().splitlines()])
        results.append(Result(model=BUILTIN_LANG, split=QUESTION_SPLIT, scores=scores, failures=(), about={}))
    same = sum(one == other for one, other in zip(*texts, strict=True))
    exact, narrow = results
    return {"questions": len(kept), "same answers": same, "rows": list(differences(narrow, exact))}


def differences(narrow: Result, exact: Result) -> Iterator[dict[str, Any]]:
    """Yield what each metric loses, with the interval over items."""
    for one in compare_results(narrow, exact):
        if "dual softmax" in one.ours.name or one.ours.name.endswith("R@5"):
            continue
        yield {
            "task": ", ".join(filter(None, (one.ours.task, one.ours.method))),
            "metric": one.ours.name,
            "n": one.ours.n,
            "float32": one.theirs.value,
            "int8": one.ours.value,
            "difference": one.difference.value,
            "interval": one.difference.interval,
            "real": one.real,
        }


PARTS = {
    "towers": measure_towers,
    "methods": measure_methods,
    "builtin": measure_builtin,
    "language": measure_language,
}


def main() -> None:
    """Measure the parts, then print the JSON or write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)} [default: all]")
    parser.add_argument("--photos", type=Path, help="labelled photographs with splits, as `pe eval` takes them")
    parser.add_argument("--captions", type=Path, help="COCO captions, beside their images")
    parser.add_argument("--scenes", type=Path, help=f"scenes with questions, split {QUESTION_SPLIT}")
    parser.add_argument("--skip", default="", metavar="NAMES", help="models that this machine's memory cannot hold")
    parser.add_argument("--seconds", type=float, default=60.0, help="time for the rounds of a model's methods")
    parser.add_argument("--out", type=Path, help="JSON to write; parts that do not run stay as they are there")
    arguments = parser.parse_args()
    if unknown := set(arguments.parts) - PARTS.keys():
        parser.error(f"no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    out = arguments.out
    result = json.loads(out.read_text(encoding="utf-8")) if out is not None and out.exists() else {}
    result |= {"command": "python -m benchmarks.int8", "machine": machine()}
    warnings.simplefilter("ignore")
    for name in arguments.parts or PARTS:
        with tempfile.TemporaryDirectory() as cache:
            os.environ["XDG_CACHE_HOME"] = cache
            result |= {name: PARTS[name](arguments)}
        report(result, out)


if __name__ == "__main__":
    main()
