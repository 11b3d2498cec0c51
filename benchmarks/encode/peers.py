"""Other libraries on the same tower, or on a CLIP of the same size, from tensors that are ready."""

from __future__ import annotations

import copy
import gc
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.encode.case import TYPES, Case, Contender, output, photographs, spec_of
from perception_encoder.exports.onnx import save_onnx
from perception_encoder.models.config import TextConfig, VisionConfig
from perception_encoder.models.memory import trim_memory
from perception_encoder.preprocess.image import to_float
from perception_encoder.preprocess.tokenizer import trim
from perception_encoder.runtime.machine import float_hint

SAME_SIZE = "CLIP of the same size"
"""What runs another model: its ratios say what the runtime gives, not what a user of PE can choose."""


LARGEST_CLIP = 250_000_000
"""Largest image tower with such a twin: with all other contenders, quantising another L14 needs more than 24 GB."""


class EncodeText(nn.Module):
    """The text tower of a model of open_clip."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.model.encode_text(ids)


def timm_contenders(case: Case, compiled: bool = True) -> list[Contender]:
    """timm's vision tower."""
    import timm

    if case.tower == "text":
        return []
    outputs = case.model.visual.config.output_dim
    return _in_torch("timm", timm.create_model(spec_of(case).timm, num_classes=outputs), case, compiled)


def open_clip_contenders(case: Case, compiled: bool = True) -> list[Contender]:
    """open_clip's tower. Its vision tower is timm's module: it is compiled once, as timm's."""
    import open_clip

    model = open_clip.create_model(spec_of(case).open_clip)
    if case.tower == "image":
        return _in_torch("open_clip", model.visual, case, compiled=False)
    del model.visual
    return _in_torch("open_clip", EncodeText(model), case, compiled)


def _in_torch(who: str, module: Any, case: Case, compiled: bool) -> list[Contender]:
    module.eval()
    expected, found = output(module, case.ready), []
    for precision, dtype in TYPES.items():
        typed = module if dtype == torch.float32 else copy.deepcopy(module).to(dtype)
        inputs = case.ready.to(dtype) if case.tower == "image" else case.ready
        for setting in ("eager", "compiled") if compiled else ("eager",):
            call = torch.compile(typed) if setting == "compiled" else typed
            found.append(
                Contender(who, setting, precision, lambda call=call, inputs=inputs: output(call, inputs), expected)
            )
    return found


def onnx_contenders(case: Case, directory: Path) -> list[Contender]:
    """onnxruntime on this package's export, in float32 and with int8 products whose ranges are found in each call."""
    import onnxruntime
    from onnxruntime.quantization import QuantType, quantize_dynamic

    whole, small = directory / "whole.onnx", directory / "int8.onnx"
    large = sum(parameter.nbytes for parameter in case.module.parameters()) > 2**30
    save_onnx(case.module, case.example, ("inputs", "outputs"), {}, whole, external=large)
    quantize_dynamic(
        whole,
        small,
        weight_type=QuantType.QInt8,
        per_channel=True,
        op_types_to_quantize=["MatMul", "Gemm"],
        use_external_data_format=large,
        extra_options={"MatMulConstBOnly": True},
    )
    found = []
    for precision, path in (("float32", whole), ("int8", small)):
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        inputs = {session.get_inputs()[0].name: case.ready.numpy()}
        run = lambda session=session, inputs=inputs: session.run(None, inputs)[0]  # noqa: E731
        found.append(Contender("onnxruntime", "", precision, run, case.expected))
    return found


def clip_contenders(case: Case, directory: Path) -> list[Contender]:
    """transformers' CLIP of the same width, depth and tokens in OpenVINO, as optimum-intel converts and quantises it.

    optimum-intel itself needs an older transformers than this package: it converts with the same call, for any batch.
    """
    import nncf
    import openvino

    if sum(parameter.numel() for parameter in case.module.parameters()) > LARGEST_CLIP and case.tower == "image":
        return []
    tower = _clip_tower(case.config).eval()
    inputs = trim(case.inputs) if case.tower == "text" else case.ready.numpy()  # its tokenizer pads to the longest
    with torch.no_grad():
        converted = openvino.convert_model(tower, example_input=case.example)
    shape = [-1, *inputs.shape[1:]] if case.tower == "image" else [-1, -1]
    converted.reshape(shape)
    openvino.save_model(converted, directory / "clip.xml", compress_to_fp16=False)
    core, expected, found = openvino.Core(), output(tower, torch.from_numpy(inputs)), []
    del tower, converted
    for precision, hint in (("float32", "f32"), ("bfloat16", float_hint(True)), ("int8", float_hint(True))):
        model = core.read_model(directory / "clip.xml")
        if precision == "int8":
            samples = nncf.Dataset(_calibration(case, inputs))
            model = nncf.quantize(
                model,
                samples,
                model_type=nncf.ModelType.TRANSFORMER,
                preset=nncf.QuantizationPreset.MIXED,
                subset_size=4,
            )
            gc.collect()
            trim_memory()
        request = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": hint}).create_infer_request()
        run = lambda request=request: np.array(request.infer([inputs])[0])  # noqa: E731
        found.append(Contender(SAME_SIZE, "OpenVINO", precision, run, expected))
    return found


def _calibration(case: Case, inputs: np.ndarray) -> list[np.ndarray]:
    """Return four inputs, each a batch; of images, others than those that are timed."""
    if case.tower == "image":
        inputs = to_float(torch.from_numpy(photographs(16, inputs.shape[-1])[-4:])).numpy()
    return [inputs[number : number + 1] for number in range(min(4, len(inputs)))]


def _clip_tower(config: VisionConfig | TextConfig) -> nn.Module:
    """Return transformers' CLIP tower with a PE tower's sizes; it returns embeddings only."""
    from transformers import (
        CLIPTextConfig,
        CLIPTextModelWithProjection,
        CLIPVisionConfig,
        CLIPVisionModelWithProjection,
    )

    common = {
        "hidden_size": config.width,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.heads,
        "projection_dim": config.output_dim,
        "hidden_act": "gelu",
    }
    torch.manual_seed(0)
    model: Any
    if isinstance(config, VisionConfig):
        vision = {"image_size": config.image_size, "patch_size": config.patch_size}
        model = CLIPVisionModelWithProjection(
            CLIPVisionConfig(**common, **vision, intermediate_size=config.mlp_width)  # type: ignore[arg-type]
        )
        return _Embeddings(model, "image_embeds")
    text = {"max_position_embeddings": config.context_length, "vocab_size": config.vocabulary}
    model = CLIPTextModelWithProjection(
        CLIPTextConfig(**common, **text, intermediate_size=4 * config.width, eos_token_id=49_407)  # type: ignore[arg-type]
    )
    return _Embeddings(model, "text_embeds")


class _Embeddings(nn.Module):
    def __init__(self, model: Any, key: str) -> None:
        super().__init__()
        self.model, self.key = model, key

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = getattr(self.model(inputs), self.key)
        return found
