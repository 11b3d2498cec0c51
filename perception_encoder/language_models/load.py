"""Load models that answer about images, videos and documents, by name."""

from __future__ import annotations

import importlib
import re
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from PIL import Image

from perception_encoder.conversation.assistant import Assistant
from perception_encoder.errors import ConfigError, UnknownModelError, needs_extra, one_line
from perception_encoder.files import replacing, writing
from perception_encoder.inference.load import choose_runtime
from perception_encoder.inference.model_spec import ModelSpec, PrecisionChoice, RuntimeChoice
from perception_encoder.language_models.decoder import SMOLLM2, Decoder, load_decoder, load_pretrained
from perception_encoder.language_models.language_model import LanguageModel, TextModel
from perception_encoder.language_models.openvino_llama import OpenVinoLlama
from perception_encoder.language_models.perception_lm import read_perception_lm
from perception_encoder.language_models.reading import PromptReader, TorchReader
from perception_encoder.language_models.weights import (
    PE_LANG,
    WEIGHTS,
    Parts,
    find_language_model,
    read_language_model,
    write_language_model,
)
from perception_encoder.models.checkpoints.weights import state_hash, write_checkpoint
from perception_encoder.models.defaults import default_model
from perception_encoder.models.initialization import drawn_from
from perception_encoder.models.precision import choose_device, fast_dtype
from perception_encoder.preprocess.conversation import Message, Reply, Sampling
from perception_encoder.progress import progress_bar
from perception_encoder.runtime.openvino_towers import FallbackWarning
from perception_encoder.runtime.runtime import AUTO, Precision

MAX_PARAMETERS = 4_000_000_000
"""Size up to which OpenVINO is chosen by default: the compiled copy takes as much memory as the model."""
HUB = "hf:"
_ENDPOINT = re.compile(r"(?P<url>https?://[^#]+)#(?P<model>.+)")
_FUNCTION = re.compile(r"python:[\w.]+:\w+")


def load_assistant(
    name: str | Path | ModelSpec | None = None,
    *,
    tiles: int | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    runtime: RuntimeChoice = "auto",
    precision: PrecisionChoice = "auto",
    timeout: float = 120.0,
    text_only: bool = False,
) -> Assistant:
    """Load a model that answers about images, videos and documents.

    Args:
        name: A Perception-LM, as a directory or a hub name; a directory or file that `pe train` wrote; `builtin-lang`,
            a demo; `https://HOST/v1#MODEL`, an endpoint of OpenAI's chat protocol; `hf:NAME`, a vision-language model
            of transformers; or `python:MODULE:FUNCTION`, a function that returns an `Assistant`; by default the choice
            of `pe models use`. Only the first three take the next five arguments.
        tiles: Maximum number of tiles of an image; by default the model's, or for a Perception-LM 36 on a GPU, else 4.
        device: By default a CUDA GPU if there is one.
        dtype: The precision, as a torch type.
        runtime: What executes the language model: "torch" or, on a CPU, "openvino" (extra `fast`; for Llamas such as
            Perception-LM's and SmolLM2); by default the faster one on this machine.
        precision: Of the language model: "float32", "bfloat16", by default if it is fast, or "int8", OpenVINO's.
        timeout: Maximum seconds for an answer of an endpoint.
        text_only: Also load language models that cannot see: `smollm2`, GGUF files, decoder-only models as `hf:NAME`.

    Raises:
        UnknownModelError, CheckpointError, WeightsUnavailableError: See `pe.load`.
        ConfigError: The name is incomplete, or the model does not take an argument.
        MissingExtraError: transformers or OpenVINO is not installed.

    Examples:
        >>> assistant = pe.load_assistant("facebook/Perception-LM-1B")
        >>> print(assistant.ask("photo.jpg", "How many cups are on the table?"))
    """
    spec = ModelSpec.of(name, device, runtime=runtime, precision=precision)
    name = str(spec.name) or default_model("language")
    check_assistant_name(name)
    if text_only and (name == SMOLLM2 or name.startswith(HUB) or name.endswith(".gguf")):
        plan = Execution(spec.with_dtype(dtype))
        decoder = load_decoder(name.removeprefix(HUB), plan.dtype)
        decoder.model.to(plan.device)
        return TextModel(decoder.name, decoder, plan.reader(decoder))
    if not runs_elsewhere(name):
        try:
            return load_language_model(replace(spec.with_dtype(dtype), name=name), tiles)
        except UnknownModelError as error:
            raise UnknownModelError(f"{error}, http://HOST/v1#MODEL, hf:NAME or python:MODULE:FUNCTION") from None
    if tiles is not None:
        raise ConfigError(f"tiles is {tiles}, but {name} tiles images itself; omit it")
    if (spec.runtime, spec.precision) != (AUTO, AUTO):
        raise ConfigError(f"{name} does not run in this package; omit runtime and precision")
    if name.startswith(HUB):
        return TransformersAssistant(name.removeprefix(HUB))
    if match := _ENDPOINT.fullmatch(name):
        from perception_encoder.language_models.endpoint import EndpointModel

        return EndpointModel(match["url"], match["model"], timeout)
    _, module, function = name.split(":")
    try:
        make = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"{name} cannot be imported: {one_line(error)}") from error
    if not isinstance(assistant := make(), Assistant):
        raise ConfigError(f"{name} returned a {type(assistant).__name__}; it must return a pe.Assistant")
    return assistant


def is_endpoint(name: str) -> bool:
    """Return whether a name is the address of an endpoint with its model."""
    return _ENDPOINT.fullmatch(name) is not None


def runs_elsewhere(name: str) -> bool:
    """Return whether a name is of a model that neither this package's torch nor OpenVINO runs."""
    return is_endpoint(name) or name.startswith(("python:", HUB))


def check_assistant_name(name: str, find: bool = False) -> None:
    """Raise ConfigError for an address without a model and for an incomplete function.

    `find`: also raise UnknownModelError or WeightsUnavailableError for a model of ours that does not exist.
    """
    if name.startswith(("http://", "https://")) and not is_endpoint(name):
        raise ConfigError(f"{name} names no model; add it, as in {name.rstrip('#')}#qwen3-8b")
    if name.startswith("python:") and not _FUNCTION.fullmatch(name):
        raise ConfigError(f"{name!r} is not of the form python:package.module:function")
    if find and not runs_elsewhere(name):
        find_language_model(name)


def load_language_model(spec: ModelSpec, tiles: int | None = None) -> LanguageModel:
    """Load a model of ours or a Perception-LM: see `load_assistant`."""
    source = find_language_model(spec.name)
    plan = Execution(spec)
    if Path(source).is_file():
        model = read_language_model(Path(source), plan.device, plan.dtype)
    else:
        model = read_perception_lm(source, plan.device, plan.dtype)
    media = model.media if tiles is None else replace(model.media, tiles=tiles)
    return LanguageModel(model.name, model.model, model.decoder, media, plan.reader(model.decoder))


def unpack_perception_lm(name: str, out: Path) -> Path:
    """Write a Perception-LM as the file of a run, beside its encoder and its language model, unless it is there."""
    if not out.is_dir():
        model = load_language_model(ModelSpec(name, "cpu", "torch", "float32"))
        projector, tower, decoder = model.model.projector, model.model.vision, model.decoder
        tower.name = PE_LANG
        parts = Parts(
            encoder=str(out / "encoder.safetensors"),
            decoder=str(out / "decoder"),
            context=decoder.prompts.context,
            chat_template=decoder.prompts.template,
            pool=projector.pool,
            media=model.media,
        )
        with writing(out), replacing(out) as temporary:
            write_checkpoint(tower, temporary / "encoder.safetensors")
            decoder.tokenizer.save_pretrained(temporary / "decoder")
            decoder.model.save_pretrained(temporary / "decoder")  # type: ignore[operator]
            write_language_model(temporary / WEIGHTS, parts, model.model, vision=False, decoder=False, half=False)
    return out / WEIGHTS


class Execution:
    """How to load and execute a language model.

    Attributes: `chosen`, with the runtime and precision to use; `device`; `dtype`, of the weights in torch, and of
    everything but int8 products; `asked`, whether OpenVINO or int8 was asked for.
    """

    def __init__(self, spec: ModelSpec) -> None:
        """Choose the runtime and precision of a model; raises what `choose_runtime` raises."""
        self.chosen = choose_runtime(spec)
        self.device = choose_device("cpu" if self.chosen.runtime == "openvino" else spec.device)
        dtype = None if self.chosen.precision == "int8" else self.chosen.dtype
        self.dtype = dtype or fast_dtype(self.device)
        self.asked = spec.runtime == "openvino" or spec.precision == "int8"

    def reader(self, decoder: Decoder) -> PromptReader:
        """Return what executes a decoder: torch, if OpenVINO cannot and was not asked for; else ConfigError."""
        model = decoder.model
        fits = self.chosen.runtime == "openvino" and OpenVinoLlama.fits(model)
        if self.asked and self.chosen.runtime == "openvino" and not fits:
            raise ConfigError(
                "OpenVINO executes only Llamas, without dynamic RoPE, and "
                f"{decoder.name} is a {type(model).__name__}; use torch"
            )
        too_large = not self.asked and sum(parameter.numel() for parameter in model.parameters()) > MAX_PARAMETERS
        if not fits or too_large:
            return TorchReader(model)
        try:
            with progress_bar(f"converting {decoder.name} for this CPU"):
                return OpenVinoLlama(model, cast(Precision, self.chosen.precision))
        except (RuntimeError, MemoryError) as error:  # of OpenVINO: a graph that it does not compile
            warnings.warn(f"{decoder.name} is computed with torch: {one_line(error)}", FallbackWarning, stacklevel=3)
            return TorchReader(model)


class TransformersAssistant(Assistant):
    """A transformers model with its processor; videos are shown as consecutive frames."""

    def __init__(self, name: str) -> None:
        """Load a model by directory or hub name; WeightsUnavailableError, MissingExtraError without transformers."""
        with needs_extra("engine", "transformers"):
            from transformers import AutoModelForImageTextToText, AutoProcessor
        device = choose_device(None)
        model, self.processor = load_pretrained(name, AutoModelForImageTextToText, AutoProcessor, fast_dtype(device))
        self.name, self.model = Path(name).name, model.to(device).eval()

    def describe(self) -> dict[str, Any]:
        """Return the name and the hash of the weights."""
        return {"name": self.name, "weights": state_hash(self.model.state_dict())}

    def generate(self, conversations: Sequence[Sequence[Message]], sampling: Sampling | None = None) -> list[Reply]:
        """Return an answer to each conversation, greedily by default; ConfigError if the processor rejects one.

        `Sampling.stop` cuts a finished answer; `Sampling.cut` is ignored: the model's own limit applies.
        """
        return [self._answer(conversation, sampling or Sampling()) for conversation in conversations]

    @torch.inference_mode()
    def _answer(self, conversation: Sequence[Message], sampling: Sampling) -> Reply:
        images, messages = [], []
        for message in conversation:
            parts: list[dict[str, str]] = []
            for part in message.content:
                if isinstance(part, str):
                    parts.append({"type": "text", "text": part})
                    continue
                frames = [part] if isinstance(part, Image.Image) else part.images
                images += frames
                parts += [{"type": "image"}] * len(frames)
            messages.append({"role": message.role, "content": parts})
        try:
            text = self.processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
            inputs = self.processor(text=[text], images=images or None, return_tensors="pt")
        except Exception as error:  # a template or a processor raises what it likes
            raise ConfigError(f"the processor of {self.name} rejects this conversation: {one_line(error)}") from None
        inputs = inputs.to(self.model.device, self.model.dtype)
        length = inputs["input_ids"].shape[1]
        sample = sampling.temperature > 0
        options = {"temperature": float(sampling.temperature), "top_p": sampling.top_p} if sample else {}
        with drawn_from(torch.Generator().manual_seed(sampling.seed)):
            output = self.model.generate(**inputs, max_new_tokens=sampling.max_tokens, do_sample=sample, **options)
        tokens = output[0, length:]
        answer, stopped = sampling.until_stop(self.processor.decode(tokens, skip_special_tokens=True))
        return Reply(answer, length, len(tokens), stopped or len(tokens) < sampling.max_tokens)
