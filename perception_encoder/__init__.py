"""Perception Encoder: images, videos and text as vectors, in one space.

    from pathlib import Path
    import perception_encoder as pe

    encoder = pe.load("builtin")
    vectors = encoder.encode(["a red mug", Path("mug.jpg")])  # (2, D)

Names are imported when they are first used, so that importing the package stays quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from perception_encoder import errors as errors
    from perception_encoder.api import analyze_layers as analyze_layers
    from perception_encoder.api import compare as compare
    from perception_encoder.api import evaluate as evaluate
    from perception_encoder.api import serve as serve
    from perception_encoder.dense_prediction.export import export_onnx as export_onnx
    from perception_encoder.dense_prediction.heads import Head as Head
    from perception_encoder.dense_prediction.heads import depth as depth
    from perception_encoder.dense_prediction.heads import detect as detect
    from perception_encoder.dense_prediction.heads import load_head as load_head
    from perception_encoder.dense_prediction.heads import segment as segment
    from perception_encoder.dense_prediction.predictions import DepthEstimate as DepthEstimate
    from perception_encoder.dense_prediction.predictions import Detections as Detections
    from perception_encoder.dense_prediction.predictions import Region as Region
    from perception_encoder.dense_prediction.predictions import Segmentation as Segmentation
    from perception_encoder.dense_prediction.predictions import TrackedFrame as TrackedFrame
    from perception_encoder.dense_prediction.tracking import track as track
    from perception_encoder.evaluation.classification.labels import Classification as Classification
    from perception_encoder.evaluation.classification.labels import classify as classify
    from perception_encoder.inference.conversation.assistant import Answer as Answer
    from perception_encoder.inference.conversation.assistant import Assistant as Assistant
    from perception_encoder.inference.conversation.captions import Caption as Caption
    from perception_encoder.inference.convert import convert as convert
    from perception_encoder.inference.encoder import Encoder as Encoder
    from perception_encoder.inference.layer_features import LayerFeatures as LayerFeatures
    from perception_encoder.inference.load import load as load
    from perception_encoder.inference.load import load_layers as load_layers
    from perception_encoder.inference.output import EmbedReport as EmbedReport
    from perception_encoder.inference.output import embed as embed
    from perception_encoder.language_alignment.load import export_lang as export_lang
    from perception_encoder.language_alignment.load import load_assistant as load_assistant
    from perception_encoder.language_alignment.perception_lm_export import export_perception_lm as export_perception_lm
    from perception_encoder.models.checkpoints.weights import create_model as create_model
    from perception_encoder.models.checkpoints.weights import from_state_dict as from_state_dict
    from perception_encoder.models.checkpoints.weights import published_state_dict as published_state_dict
    from perception_encoder.models.registry import list_models as list_models
    from perception_encoder.preprocess.conversation import Message as Message
    from perception_encoder.preprocess.conversation import Reply as Reply
    from perception_encoder.preprocess.conversation import Sampling as Sampling
    from perception_encoder.preprocess.image import image_transform as image_transform
    from perception_encoder.preprocess.image import pad_images as pad_images
    from perception_encoder.preprocess.tokenizer import tokenizer as tokenizer
    from perception_encoder.runtime.export import export_openvino as export_openvino
    from perception_encoder.search.index import Index as Index
    from perception_encoder.search.index import open_index as open_index
    from perception_encoder.search.index import search_files as search_files
    from perception_encoder.search.ranking import Hit as Hit
    from perception_encoder.search.ranking import SearchResult as SearchResult
    from perception_encoder.search.storage.update import UpdateReport as UpdateReport
    from perception_encoder.stages import TrainingResult as TrainingResult
    from perception_encoder.stages import list_recipes as list_recipes
    from perception_encoder.stages import plan as plan
    from perception_encoder.stages import train as train
    from perception_encoder.video_data_engine.refine import refine_captioner as refine_captioner
    from perception_encoder.video_data_engine.run import EngineReport as EngineReport
    from perception_encoder.video_data_engine.run import run_engine as run_engine
    from perception_encoder.video_dataset.dataset import VideoDataset as VideoDataset
    from perception_encoder.video_dataset.dataset import VideoSelection as VideoSelection
    from perception_encoder.video_dataset.dataset import open_video_dataset as open_video_dataset

__version__ = "0.2.0"

_NAMES = {
    "api": "analyze_layers compare evaluate serve",
    "dense_prediction.export": "export_onnx",
    "dense_prediction.heads": "Head depth detect load_head segment",
    "dense_prediction.predictions": "DepthEstimate Detections Region Segmentation TrackedFrame",
    "dense_prediction.tracking": "track",
    "evaluation.classification.labels": "Classification classify",
    "inference.conversation.assistant": "Answer Assistant",
    "inference.conversation.captions": "Caption",
    "inference.convert": "convert",
    "inference.encoder": "Encoder",
    "inference.layer_features": "LayerFeatures",
    "inference.load": "load load_layers",
    "inference.output": "EmbedReport embed",
    "language_alignment.load": "export_lang load_assistant",
    "language_alignment.perception_lm_export": "export_perception_lm",
    "models.checkpoints.weights": "create_model from_state_dict published_state_dict",
    "models.registry": "list_models",
    "preprocess.conversation": "Message Reply Sampling",
    "preprocess.image": "image_transform pad_images",
    "preprocess.tokenizer": "tokenizer",
    "runtime.export": "export_openvino",
    "search.index": "Index open_index search_files",
    "search.ranking": "Hit SearchResult",
    "search.storage.update": "UpdateReport",
    "stages": "TrainingResult list_recipes plan train",
    "video_data_engine.refine": "refine_captioner",
    "video_data_engine.run": "EngineReport run_engine",
    "video_dataset.dataset": "VideoDataset VideoSelection open_video_dataset",
}
"""The public names of each module."""
_HOMES = {name: f"perception_encoder.{module}" for module, names in _NAMES.items() for name in names.split()}

__all__ = sorted([*_HOMES, "__version__", "errors"])


def __getattr__(name: str) -> Any:
    if name == "errors":
        return import_module("perception_encoder.errors")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    return __all__
