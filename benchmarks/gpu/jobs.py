"""What is timed on a card, and who computes it in which settings. Weights are random, in bfloat16."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.encode.peers import EncodeText
from benchmarks.gpu.device import Device
from benchmarks.language import random_llama
from benchmarks.train.cases import LENGTH, noise
from benchmarks.train.contenders import Step, open_clip_step, our_step
from perception_encoder.language_models.reading import TorchReader, generate_tokens
from perception_encoder.models.checkpoints.weights import build, create_model
from perception_encoder.models.registry import find_model
from perception_encoder.preprocess.conversation import Sampling
from perception_encoder.preprocess.image import to_float
from perception_encoder.runtime.torch_towers import TorchTowers
from perception_encoder.training.optimizer import OptimizerConfig

Run = Callable[[], Any]
Kind = Literal["image", "text", "train", "generate"]
OURS = "perception-encoder"
DEFAULT = "by default"
"""As the package computes: encoding goes from uint8 pixels or token ids in main memory, in its own batches, to float32
arrays there."""
ENCODE = (DEFAULT, "eager", "compiled")
SETTINGS: dict[Kind, dict[str, tuple[str, ...]]] = {
    "image": {OURS: ENCODE, "timm": ("eager", "compiled")},
    "text": {OURS: ENCODE, "open_clip": ("eager", "compiled")},
    "train": {OURS: (DEFAULT,), "open_clip": ("eager", "compiled")},
    "generate": {OURS: (DEFAULT,), "transformers": ("eager", "static cache, compiled")},
}
"""Libraries and their settings, by kind. open_clip's image towers are timm's."""
LLAMA = "random Llama of 1.2B"
PROMPT, TOKENS = 150, 128
"""Tokens of a prompt, and of its answer."""
TINY = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
}
SMALLEST = "PE-Core-T16-384"
IMAGES = {SMALLEST: 256, "PE-Core-S16-384": 256, "PE-Core-B16-224": 256, "PE-Core-L14-336": 128, "PE-Core-G14-448": 64}
TEXTS = 512
PAIRS = {"PE-Core-B16-224": 128, "PE-Core-L14-336": 32}


@dataclass(frozen=True)
class Job:
    """A model and what it computes; `count`: inputs of a call; `quick`: programs are traced, but not compiled."""

    model: str
    kind: Kind
    count: int
    quick: bool = False

    @property
    def name(self) -> str:
        """Names it in the results."""
        return f"{self.model}:{self.kind}"

    def build(self, who: str, device: Device) -> Mapping[str, Run]:
        """Return what a library computes, by setting."""
        builders = {
            ("image", OURS): _our_images,
            ("image", "timm"): _timm,
            ("text", OURS): _our_texts,
            ("text", "open_clip"): _open_clip,
            ("train", OURS): _our_training,
            ("train", "open_clip"): _open_clip_training,
            ("generate", OURS): _our_generation,
            ("generate", "transformers"): _transformers,
        }
        return builders[self.kind, who](self, device.device)

    def compile(self, module: Any) -> Any:
        """Return a compiled module."""
        return torch.compile(module, backend="eager" if self.quick else "inductor")


JOBS = (
    *(job for model, count in IMAGES.items() for job in (Job(model, "image", count), Job(model, "text", TEXTS))),
    *(Job(model, "train", count) for model, count in PAIRS.items()),
    Job(LLAMA, "generate", TOKENS),
)
QUICK = (
    Job(SMALLEST, "image", 2, quick=True),
    Job(SMALLEST, "text", 2, quick=True),
    Job(SMALLEST, "train", 2, quick=True),
    Job(LLAMA, "generate", 4, quick=True),
)


def our_model(name: str, device: torch.device) -> Any:
    """Return a model in bfloat16, drawn on the device: on a CPU, drawing G14 would take a minute."""
    model = build(find_model(name)).to_empty(device=device).to(torch.bfloat16)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.02)
            else:
                parameter.fill_(float(key.endswith("weight")))
    return model.eval()


def _pixels(job: Job) -> np.ndarray:
    side = find_model(job.model).vision.image_size
    return np.random.default_rng(0).integers(0, 256, (job.count, 3, side, side), np.uint8)


def _ids(job: Job) -> np.ndarray:
    text = find_model(job.model).text
    assert text is not None
    ids = np.random.default_rng(0).integers(1000, 49_000, (job.count, text.context_length))
    ids[:, 0], ids[:, -1] = 49_406, 49_407
    return ids


def _ready(job: Job, device: torch.device) -> Tensor:
    return to_float(torch.from_numpy(_pixels(job)).to(device)).to(torch.bfloat16)


def _in_batches(encode: Callable[[np.ndarray], np.ndarray], inputs: np.ndarray, size: int) -> Run:
    parts = [inputs[start : start + size] for start in range(0, len(inputs), size)]
    return lambda: np.concatenate([encode(part) for part in parts])


def _encoders(job: Job, module: nn.Module, inputs: Tensor) -> dict[str, Run]:
    calls = {"eager": module, "compiled": job.compile(module)}

    def of(call: Any) -> Run:
        @torch.inference_mode()
        def run() -> Tensor:
            found: Tensor = call(inputs)
            return found

        return run

    return {setting: of(call) for setting, call in calls.items()}


@torch.inference_mode()
def in_best_format(module: nn.Module, images: Tensor, device: Device) -> Tensor:
    """Put a module and its images into the memory format that is faster, contiguous or channels-last."""
    seconds = {}
    formats = (torch.contiguous_format, torch.channels_last)
    for memory_format in formats:
        module.to(memory_format=memory_format)
        inputs = images.contiguous(memory_format=memory_format)
        module(inputs)  # chooses kernels
        seconds[memory_format] = min(device.seconds(lambda inputs=inputs: module(inputs)) for _ in range(3))  # type: ignore[misc]
    best = min(formats, key=seconds.__getitem__)
    module.to(memory_format=best)
    return images.contiguous(memory_format=best)


def _our_images(job: Job, device: torch.device) -> dict[str, Run]:
    visual = our_model(job.model, device).visual
    towers, last = TorchTowers(visual, device, torch.bfloat16), visual.config.depth - 1
    whole = _in_batches(
        lambda pixels: towers.embed_pixels(pixels, last, "attn"), _pixels(job), towers.runtime.batch_size
    )
    inputs = in_best_format(visual, _ready(job, device), Device(device))
    return {DEFAULT: whole, **_encoders(job, visual, inputs)}


def _timm(job: Job, device: torch.device) -> dict[str, Run]:
    import timm

    entry = find_model(job.model)
    with device:
        module = timm.create_model(entry.timm, num_classes=entry.vision.output_dim)
    module = module.eval().to(torch.bfloat16)
    return _encoders(job, module, in_best_format(module, _ready(job, device), Device(device)))


def _our_texts(job: Job, device: torch.device) -> dict[str, Run]:
    model, ids = our_model(job.model, device), _ids(job)
    del model.visual.transformer
    towers = TorchTowers(model, device, torch.bfloat16)
    whole = _in_batches(towers.embed_ids, ids, towers.runtime.text_batch_size)
    return {DEFAULT: whole, **_encoders(job, model.text, torch.from_numpy(ids).to(device))}


def _open_clip(job: Job, device: torch.device) -> dict[str, Run]:
    model = _open_clip_model(job, device)
    del model.visual
    module = EncodeText(model.eval().to(torch.bfloat16))
    return _encoders(job, module, torch.from_numpy(_ids(job)).to(device))


def _open_clip_model(job: Job, device: torch.device) -> Any:
    import open_clip

    name = find_model(job.model).open_clip
    assert name is not None
    with device:
        return open_clip.create_model(name, device=device, force_image_size=_side(job))


def _side(job: Job) -> int:
    """Return the side of the images that are trained on."""
    return 64 if job.quick else find_model(job.model).vision.image_size


def _training(job: Job, device: torch.device, steps: Mapping[str, Step]) -> dict[str, Run]:
    batch = noise(_side(job), job.count).to(device)
    return {setting: partial(step, batch) for setting, step in steps.items()}


def _our_training(job: Job, device: torch.device) -> dict[str, Run]:
    model = create_model(job.model)
    model.visual.set_image_size(_side(job))
    model = model.to(device).train()
    step = our_step(model, OptimizerConfig(name="adamw", lr=1e-4), device=device)
    return _training(job, device, {DEFAULT: step})


def _open_clip_training(job: Job, device: torch.device) -> dict[str, Run]:
    model = _open_clip_model(job, device).train()
    calls = {"eager": model, "compiled": job.compile(model)}
    steps = {setting: open_clip_step(call, None, LENGTH, device) for setting, call in calls.items()}
    return _training(job, device, steps)


def _llama(job: Job, device: torch.device) -> tuple[Any, Tensor]:
    """Return the decoder, and the embeddings (T, dim) of a prompt."""
    model = random_llama(**(TINY if job.quick else {})).to(device)
    with torch.inference_mode():
        return model, model.get_input_embeddings()(torch.arange(PROMPT, device=device))


def _our_generation(job: Job, device: torch.device) -> dict[str, Run]:
    model, prompt = _llama(job, device)
    reader, sampling = TorchReader(model), Sampling(max_tokens=job.count)
    return {DEFAULT: lambda: [token for (token,) in generate_tokens(reader, [prompt], frozenset(), sampling)]}


def _transformers(job: Job, device: torch.device) -> dict[str, Run]:
    """`generate` compiles a step by itself if its cache is static, on a card only."""
    model, prompt = _llama(job, device)

    def generate(**options: str) -> list[int]:
        found = model.generate(
            inputs_embeds=prompt[None],
            attention_mask=torch.ones(1, PROMPT, dtype=torch.long, device=device),
            max_new_tokens=job.count,
            min_new_tokens=job.count,
            do_sample=False,
            pad_token_id=0,
            **options,
        )
        tokens: list[int] = found[0].tolist()
        return tokens

    return {"eager": generate, "static cache, compiled": partial(generate, cache_implementation="static")}
