"""Pairs a second of a training step of the built-in model, beside open_clip's own model and loss, in one run.

    python -m benchmarks.train --photos DIR [--drawings DIR] [--steps 9] [--out docs/results/train.json]

Both train on the recipe's own batches, made beforehand: 256 pairs, at each resolution of the recipe. Ours is the step
of `pe train builtin`; the peer is open_clip's CLIP with its own towers of the same sizes, its ClipLoss, a caption a
picture padded to the context as it pads them, and AdamW. Both compute in the type that is fast here. Steps
alternate, so that the machine's noise falls on both.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.results import report
from perception_encoder.data.batch import ImageTextBatch
from perception_encoder.data.image_text import ImageTextSet
from perception_encoder.data.pairs import PairBatches, Stage
from perception_encoder.models.memory import keep_freed_memory
from perception_encoder.models.precision import fast_dtype
from perception_encoder.models.registry import find_model
from perception_encoder.models.weights import create_model
from perception_encoder.preprocess.image import to_float
from perception_encoder.preprocess.tokenizer import tokenizer
from perception_encoder.pretraining.run import PretrainingConfig
from perception_encoder.pretraining.task import ContrastiveTask
from perception_encoder.pretraining.towers import Towers
from perception_encoder.pretraining.vocabulary import CaptionVocabulary
from perception_encoder.recipes.builtin import builtin
from perception_encoder.train.distributed import clip_gradients
from perception_encoder.train.optimizer import build_optimizer

BATCHES = 3  # made for each resolution
AIMS = {96: 200.0}  # pairs a second, of the first edition

Step = Callable[[ImageTextBatch], None]


def make_batches(config: PretrainingConfig, folders: list[Path]) -> tuple[CaptionVocabulary, dict[int, list[Any]]]:
    """The run's vocabulary, and some of its batches by resolution."""
    by_source = ImageTextSet.from_folder(folders, "train", config.image_side).by_source()
    used = {source: weight for source, weight in config.weights.items() if source in by_source}
    texts = {text for source in used for sample in by_source[source] for text in sample.captions}
    vocabulary = CaptionVocabulary(tokenizer(create_model(config.model)), texts)
    sets = [by_source[source].balanced(config.balance) for source in used]
    batches = {}
    for stage in config.stages:
        one = (Stage(image_size=stage.image_size, steps=BATCHES),)
        make = PairBatches(
            sets, list(used.values()), config.batch_size, one, config.augmentation, vocabulary, config.seed
        )
        batches[stage.image_size] = [make(step) for step in range(BATCHES)]
    return vocabulary, batches


def our_step(config: PretrainingConfig, vocabulary: CaptionVocabulary) -> Step:
    """A step as the training loop does it."""
    model = create_model(config.model).train()
    vocabulary.narrow(model)
    task, optimizer = ContrastiveTask(Towers(model)), build_optimizer(model, config.optimizer)

    def step(batch: ImageTextBatch) -> None:
        with _autocast():
            loss = task.losses(batch)["contrastive"]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        clip_gradients(model.parameters(), config.optimizer.max_grad_norm)
        optimizer.step()
        task.after_step()

    return step


def open_clip_step(config: PretrainingConfig, vocabulary: CaptionVocabulary) -> Step:
    """open_clip's model of the same towers, its loss, and AdamW."""
    import open_clip

    entry = find_model(config.model)
    vision, text = entry.vision, entry.text
    assert text is not None
    model = open_clip.CLIP(
        embed_dim=vision.output_dim,
        vision_cfg={
            "layers": vision.depth,
            "width": vision.width,
            "head_width": vision.width // vision.heads,
            "patch_size": vision.patch_size,
            "image_size": vision.image_size,
            "attentional_pool": False,
        },
        text_cfg={
            "context_length": text.context_length,
            "vocab_size": text.vocabulary,
            "width": text.width,
            "heads": text.heads,
            "layers": text.depth,
        },
    ).train()
    loss_of, optimizer = open_clip.ClipLoss(), torch.optim.AdamW(model.parameters(), lr=1e-4)

    def step(batch: ImageTextBatch) -> None:
        side = model.visual.image_size[0]
        pictures = to_float(batch.pictures)
        if pictures.shape[-1] != side:
            model.visual.positional_embedding = _grid(model.visual.positional_embedding, pictures.shape[-1], vision)
            model.visual.image_size = (pictures.shape[-1],) * 2
            optimizer.param_groups[0]["params"] = list(model.parameters())
        tokens = F.pad(vocabulary.ids[batch.tokens], (0, text.context_length - batch.tokens.shape[1]))
        rows = torch.arange(len(pictures)) % len(tokens)  # it encodes a caption for each picture
        with _autocast():
            images, texts, scale = model(pictures, tokens[rows])
            loss = loss_of(images, texts, scale)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return step


def _grid(positions: Tensor, side: int, vision: Any) -> torch.nn.Parameter:
    """Positions for another resolution; their values do not matter here."""
    return torch.nn.Parameter(torch.randn(1 + (side // vision.patch_size) ** 2, positions.shape[1]) * 0.02)


def _autocast() -> torch.autocast:
    dtype = fast_dtype(torch.device("cpu"))
    return torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16)


def measure(steps: dict[str, Step], batches: dict[int, list[Any]], count: int) -> dict[str, dict[str, list[float]]]:
    """Pairs a second by contender and resolution; the first two steps of each warm up."""
    speeds: dict[str, dict[str, list[float]]] = {name: {} for name in steps}
    for size, some in batches.items():
        for number in range(count + 2):
            for name, step in steps.items():
                batch = some[number % len(some)]
                start = time.perf_counter()
                step(batch)
                rate = len(batch) / (time.perf_counter() - start)
                if number >= 2:
                    speeds[name].setdefault(str(size), []).append(rate)
                print(f"{size} px, step {number}: {name} {rate:.0f} pairs/s", flush=True)
    return speeds


def page(result: dict[str, Any]) -> str:
    """The results page of a run's JSON."""
    rows = []
    for size in result["speeds"]["ours"]:
        ours, theirs = (statistics.median(result["speeds"][name][size]) for name in ("ours", "open_clip"))
        aim = AIMS.get(int(size))
        mark = "–" if aim is None else f"{aim:g} {'✓' if ours >= aim else '✗'}"
        rows.append(f"| {size} | {ours:.0f} | {theirs:.0f} | {ours / theirs:.2f} | {mark} |")
    return "\n".join(
        [
            "# Training speed",
            "",
            f"Steps of 256 pairs of the built-in recipe, {result['machine']}. Written by `{result['command']}`.",
            "",
            "Pairs a second, medians.",
            "",
            "| resolution | ours | open_clip's model and loss | ratio | aim |",
            "|---|---|---|---|---|",
            *rows,
            "",
        ]
    )


def main() -> None:
    """Measure, print, and write the JSON and its page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True, help="folder with train.tar")
    parser.add_argument("--drawings", type=Path, help="folder that `pe data prepare` made")
    parser.add_argument("--steps", type=int, default=9)
    parser.add_argument("--out", type=Path, help="JSON to write; its page is written beside it")
    arguments = parser.parse_args()
    keep_freed_memory()
    config = builtin()
    folders = [folder for folder in (arguments.photos, arguments.drawings) if folder is not None]
    vocabulary, batches = make_batches(config, folders)
    steps = {"ours": our_step(config, vocabulary), "open_clip": open_clip_step(config, vocabulary)}
    dtype = str(fast_dtype(torch.device("cpu"))).removeprefix("torch.")
    machine = (
        f"{torch.get_num_threads()} CPU cores, {dtype}, torch {torch.__version__}, Python {platform.python_version()}"
    )
    command = "python -m benchmarks.train --photos DIR --drawings DIR"
    result = {"command": command, "machine": machine, "speeds": measure(steps, batches, arguments.steps)}
    report(result, page, arguments.out)


if __name__ == "__main__":
    main()
