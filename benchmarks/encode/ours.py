"""This package's runtimes, as an encoder calls them: from uint8 pixels or padded token ids to float32
arrays."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path

import torch

from benchmarks.encode.case import Case, Contender, Run, fast_type
from perception_encoder.models.checkpoints.weights import weight_hash
from perception_encoder.preprocess.tokenizer import trim
from perception_encoder.runtime.openvino_towers import FallbackWarning, OpenVinoTowers
from perception_encoder.runtime.runtime import PRECISIONS
from perception_encoder.runtime.torch_towers import TorchTowers, describe
from perception_encoder.runtime.towers import PackageTowers

WHO = "perception-encoder"


def contenders(case: Case, directory: Path) -> list[Contender]:
    """Torch in its fastest type, OpenVINO in each precision; one that the model's gate refuses is left out."""
    precision, dtype = fast_type()
    in_torch = TorchTowers(copy.deepcopy(case.model).to(dtype), torch.device("cpu"), dtype)
    found = [Contender(WHO, "torch", precision, _run(in_torch, case), case.expected)]
    info = describe(case.model, weight_hash(case.model))
    for kind in PRECISIONS:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", FallbackWarning)
                run = _run(OpenVinoTowers(info, kind, lambda: case.model), case)
                run()
        except FallbackWarning as refusal:
            print(f"{case.name}: no {kind}: {refusal}", flush=True)
            continue
        found.append(Contender(WHO, "OpenVINO", kind, run, case.expected))
    return found


def _run(towers: PackageTowers, case: Case) -> Run:
    if case.tower == "text":
        return lambda: towers.embed_ids(trim(case.inputs))
    last = case.model.visual.config.depth - 1
    return lambda: towers.embed_pixels(case.inputs, last, "attn")
