"""How fast a language model sees, speaks and learns: tokens a second, time to the first token, a training step's parts.

    python -m benchmarks.language [--rounds 30] [--out docs/results/language_speed.json]

The decoder is SmolLM2-135M. A step of generation is taken in turns by the library and by this package, so that the
machine's noise falls on both. The first token follows one image of 448 px that PE-Core-B16 (random weights) encodes
whole. The training step is that of the recipe `language_builtin`.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn import functional

from benchmarks.results import machine, report
from perception_encoder.language_alignment.batches import Example, collate
from perception_encoder.language_alignment.language_model import LanguageModel
from perception_encoder.language_alignment.model import PerceptionLanguageModel, Projector
from perception_encoder.language_alignment.run import LanguageTrainee
from perception_encoder.language_alignment.text.decoder import SMOLLM2, load_decoder
from perception_encoder.language_alignment.text.fast_llama import FastLlama
from perception_encoder.models.checkpoints.weights import create_model
from perception_encoder.models.clip import CLIP
from perception_encoder.models.precision import fast_autocast, fast_dtype
from perception_encoder.preprocess.conversation import Message, Sampling, ask
from perception_encoder.preprocess.tiling import MediaConfig
from perception_encoder.training.optimizer import build_optimizer
from synthetic.builtin.recipes import language_builtin

ENCODER, SIDE = "PE-Core-B16-224", 448
QUESTION = "What is in the image?"
TURNS = 9
"""Questions of a training conversation."""
CPU = torch.device("cpu")
LIBRARY, OURS = "transformers", "this package"
PARTS = ("encoder, forward", "language model, forward", "logits and loss", "backward", "optimizer")


def time_tokens(rounds: int) -> dict[str, list[float]]:
    """Seconds of a step after 150 tokens, by who takes it."""
    model: Any = load_decoder(SMOLLM2, fast_dtype(CPU)).model
    ids = torch.arange(150)[None]
    with torch.inference_mode():
        cache = model(ids, use_cache=True).past_key_values
        step = FastLlama(model).continue_from(cache, rounds + 1)
        calls: dict[str, Callable[[], object]] = {
            LIBRARY: lambda: model(input_ids=ids[:, :1], past_key_values=cache, use_cache=True).logits[0, -1].argmax(),
            OURS: lambda: step(0).argmax(),
        }
        seconds: dict[str, list[float]] = {name: [] for name in calls}
        for turn in range(rounds + 1):
            for name, call in calls.items():
                start = time.perf_counter()
                call()
                if turn:  # the first one warms up
                    seconds[name].append(time.perf_counter() - start)
    return seconds


def time_first_token(rounds: int) -> list[float]:
    """Seconds from an image that was not seen before to the first piece of the answer."""
    dtype = fast_dtype(CPU)
    clip = create_model(ENCODER)
    assert isinstance(clip, CLIP)
    clip.visual.truncate(-1)
    decoder = load_decoder(SMOLLM2, dtype)
    projector = Projector(clip.visual.config.width, decoder.dim, 2)
    module = PerceptionLanguageModel(clip.visual, projector, decoder.model).to(dtype)
    model = LanguageModel("benchmark", module, decoder, MediaConfig(image_size=SIDE, tiles=0))
    pixels, seconds = np.random.default_rng(0), []
    for turn in range(rounds + 1):
        image = Image.fromarray(pixels.integers(0, 255, (SIDE, SIDE, 3), np.uint8))
        start = time.perf_counter()
        next(model.generate_stream(ask(QUESTION, [image]), Sampling(max_tokens=8, temperature=1.0, seed=turn)), "")
        if turn:
            seconds.append(time.perf_counter() - start)
    return seconds


def time_training(rounds: int) -> dict[str, list[float]]:
    """Seconds of each part of a training step."""
    config = replace(language_builtin(), initial=None, layer_scale=0.1)
    trainee = LanguageTrainee(config)
    model, grid = trainee.model, trainee.module.grid
    image = Image.new("RGB", (9, 9))
    messages = [Message("user", (image, QUESTION)), Message("assistant", ("a mug",))]
    messages += [Message("user", (QUESTION,)), Message("assistant", ("a mug",))] * (TURNS - 1)
    prompt = trainee.decoder.prompts.training_prompt(messages, [model.projector.tokens_of(grid)])
    size = config.image_size or SIDE
    batch = collate([Example(prompt, torch.rand(1, 3, size, size))] * config.batch_size, 0)
    optimizer = build_optimizer(trainee.module, config.optimizer)
    decoder: Any = model.decoder
    seconds: dict[str, list[float]] = {name: [] for name in PARTS}
    for turn in range(rounds + 1):
        marks = [time.perf_counter()]
        with fast_autocast(CPU):
            features = model.image_features(batch.images)
            marks.append(time.perf_counter())
            tokens = model.project(features.float(), grid).flatten(0, 1)
            embeddings = model.embed(batch.ids, batch.is_image, tokens)
            hidden = decoder.get_decoder()(inputs_embeds=embeddings[:, :-1], use_cache=False).last_hidden_state
            marks.append(time.perf_counter())
            targets = batch.labels[:, 1:]
            logits = decoder.get_output_embeddings()(hidden[targets >= 0])
            loss = functional.cross_entropy(logits.float(), targets[targets >= 0])
            marks.append(time.perf_counter())
        loss.backward()
        marks.append(time.perf_counter())
        optimizer.step()
        optimizer.zero_grad()
        marks.append(time.perf_counter())
        for name, (start, end) in zip(PARTS, pairwise(marks), strict=True):
            if turn:
                seconds[name].append(end - start)
    return {**seconds, "tokens": [float(batch.ids.numel())]}


def main() -> None:
    """Measure, then print the JSON or write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--out", type=Path, help="JSON to write [default: print it]")
    arguments = parser.parse_args()
    precision = str(fast_dtype(CPU)).removeprefix("torch.")
    result = {
        "command": "python -m benchmarks.language",
        "machine": f"{precision}, {machine()}",
        "tokens": time_tokens(arguments.rounds),
        "first_token": time_first_token(max(3, arguments.rounds // 5)),
        "training": time_training(max(2, arguments.rounds // 10)),
    }
    report(result, arguments.out)


if __name__ == "__main__":
    main()
