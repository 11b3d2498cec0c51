"""Other libraries on the same tower, or on a CLIP of the same size, from tensors that are ready."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.encode.case import Case, Contender, fast_type, output, photographs, spec_of
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


def torch_contenders(case: Case) -> list[Contender]:
    """timm's vision tower, which open_clip's models of these names contain, or open_clip's text tower, compiled.

    Both compute in torch's fastest type. Without compilation, open_clip's text towers are never faster.
    """
    import open_clip
    import timm

    if case.tower == "image":
        outputs = case.model.visual.config.output_dim
        return _in_torch("timm", timm.create_model(spec_of(case).timm, num_classes=outputs), case)
    model = open_clip.create_model(spec_of(case).open_clip)
    del model.visual
    return _in_torch("open_clip", EncodeText(model), case, ("compiled",))


def _in_torch(who: str, module: Any, case: Case, settings: Sequence[str] = ("eager", "compiled")) -> list[Contender]:
    expected, (precision, dtype) = output(module.eval(), case.ready), fast_type()
    module = module.to(dtype)
    inputs = case.ready.to(dtype) if case.tower == "image" else case.ready
    calls = {setting: torch.compile(module) if setting == "compiled" else module for setting in settings}
    return [
        Contender(who, setting, precision, lambda call=call: output(call, inputs), expected)
        for setting, call in calls.items()
    ]


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
    for precision in (fast_type()[0], "int8"):
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
        hint = float_hint(precision != "float32")
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
