"""How fast a language model sees, speaks and learns: tokens a second, time to the first token, a training step's parts.

    python -m benchmarks.language [--rounds 30] [--out docs/results/language_speed.json]

A step of generation, and a prompt of 150 tokens, are taken in turns by the library and by this package in each runtime
and precision, so that the machine's noise falls on all; this needs 11 GB. For the other parts, the decoder is
SmolLM2-135M. The first token follows one image of 448 px that PE-Core-B16 (random weights) encodes whole. The training
step is that of the recipe `language_builtin`.
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
from perception_encoder.language_alignment.run import LanguageTrainee
from perception_encoder.language_models.decoder import SMOLLM2, load_decoder
from perception_encoder.language_models.language_model import LanguageModel
from perception_encoder.language_models.model import PerceptionLanguageModel, Projector, collate
from perception_encoder.language_models.openvino_llama import OpenVinoLlama
from perception_encoder.language_models.reading import PromptReader, TorchReader
from perception_encoder.models.checkpoints.weights import create_model
from perception_encoder.models.clip import CLIP
from perception_encoder.models.initialization import drawn_from
from perception_encoder.models.precision import fast_autocast, fast_dtype
from perception_encoder.preprocess.conversation import Message, Sampling, ask
from perception_encoder.preprocess.tiling import MediaConfig
from perception_encoder.runtime.runtime import Precision
from perception_encoder.training.optimizer import build_optimizer
from synthetic.builtin.recipes import language_builtin

ENCODER, SIDE = "PE-Core-B16-224", 448
QUESTION = "What is in the image?"
TURNS = 9
"""Questions of a training conversation."""
CPU = torch.device("cpu")
LIBRARY, OPENVINO = "transformers", "OpenVINO"
"""What generates."""
FLOATS: tuple[Precision, ...] = ("float32", "bfloat16")
PROMPT = 150
"""Tokens before the first step."""
PARTS = ("encoder, forward", "language model, forward", "logits and loss", "backward", "optimizer")


def smollm2() -> dict[str, PromptReader]:
    """What executes SmolLM2-135M."""
    readers: dict[str, PromptReader] = {}
    for precision in FLOATS:
        model: Any = load_decoder(SMOLLM2, getattr(torch, precision)).model
        readers[f"{LIBRARY}, {precision}"] = TorchReader(model)
        readers[f"{OPENVINO}, {precision}"] = OpenVinoLlama(model, precision)
        if getattr(torch, precision) == fast_dtype(CPU):
            readers[f"{OPENVINO}, int8"] = OpenVinoLlama(model, "int8")
    return readers


def random_llama(**sizes: int) -> Any:
    """Return a random Llama in bfloat16, by default of the shape of Llama-3.2-1B."""
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = {
        "vocab_size": 128_256,
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 64,
    }
    config = LlamaConfig(**(shape | sizes), tie_word_embeddings=True, dtype="bfloat16")  # type: ignore[arg-type]
    torch.set_default_dtype(torch.bfloat16)  # whole in float32, it would need 5 GB
    with drawn_from(torch.Generator().manual_seed(0)):
        model = LlamaForCausalLM(config).eval().requires_grad_(False)
    torch.set_default_dtype(torch.float32)
    return model


def large_llama() -> dict[str, PromptReader]:
    """What executes a random Llama of the shape of Llama-3.2-1B."""
    model = random_llama()
    return {
        f"{LIBRARY}, bfloat16": TorchReader(model),
        f"{OPENVINO}, bfloat16": OpenVinoLlama(model, "bfloat16"),
        f"{OPENVINO}, int8": OpenVinoLlama(model, "int8"),
    }


DECODERS = {"SmolLM2-135M": smollm2, "random Llama of 1.2B": large_llama}


@torch.inference_mode()
def time_readers(readers: dict[str, PromptReader], rounds: int) -> dict[str, dict[str, list[float]]]:
    """Seconds of a step after a prompt, and of a prompt, by who takes them in turns."""
    prompts, steps = {}, {}
    for name, reader in readers.items():
        embed = reader.model.get_input_embeddings()  # type: ignore[attr-defined]
        prompts[name] = embed(torch.arange(PROMPT))
        _, steps[name] = reader.read([prompts[name]])
    calls: dict[str, Callable[[str], object]] = {
        "step": lambda name: steps[name](torch.tensor([5])).argmax(),
        "prompt": lambda name: readers[name].read([prompts[name]]),
    }
    seconds: dict[str, dict[str, list[float]]] = {part: {name: [] for name in readers} for part in calls}
    for part, call in calls.items():
        for turn in range((rounds if part == "step" else max(3, rounds // 5)) + 1):
            for name in readers:
                start = time.perf_counter()
                call(name)
                if turn:  # the first one warms up
                    seconds[part][name].append(time.perf_counter() - start)
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
    trainee = LanguageTrainee.of(config)
    model = trainee.model
    size = config.image_size or SIDE
    grid = model.vision.grid_of(size, size)
    image = Image.new("RGB", (9, 9))
    messages = [Message("user", (image, QUESTION)), Message("assistant", ("a mug",))]
    messages += [Message("user", (QUESTION,)), Message("assistant", ("a mug",))] * (TURNS - 1)
    prompt = trainee.decoder.prompts.training_prompt(messages, [model.projector.tokens_of(grid)])
    batch = collate([(prompt, torch.rand(1, 3, size, size))] * config.batch_size, 0)
    optimizer = build_optimizer(trainee.module, config.optimizer)
    decoder: Any = model.decoder
    seconds: dict[str, list[float]] = {name: [] for name in PARTS}
    for turn in range(rounds + 1):
        marks = [time.perf_counter()]
        with fast_autocast(CPU):
            features = model.image_features(batch.images)
            marks.append(time.perf_counter())
            tokens = model.projector(features.float(), grid).flatten(0, 1)
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
        "generation": {name: time_readers(make(), arguments.rounds) for name, make in DECODERS.items()},
        "first_token": time_first_token(max(3, arguments.rounds // 5)),
        "training": time_training(max(2, arguments.rounds // 10)),
    }
    report(result, arguments.out)


if __name__ == "__main__":
    main()
