"""Perception Encoder: images, videos and text as vectors, in one space.

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
    from perception_encoder.inference.encoder import Encoder as Encoder
    from perception_encoder.inference.layer_features import LayerFeatures as LayerFeatures
    from perception_encoder.inference.load import load as load
    from perception_encoder.inference.load import load_layers as load_layers
    from perception_encoder.inference.output import EmbedReport as EmbedReport
    from perception_encoder.inference.output import embed as embed
    from perception_encoder.language_alignment.load import export_lang as export_lang
    from perception_encoder.language_alignment.load import load_assistant as load_assistant
    from perception_encoder.models.checkpoints.layout_directory import convert as convert
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

_HOMES = {
    "Answer": "perception_encoder.inference.conversation.assistant",
    "Assistant": "perception_encoder.inference.conversation.assistant",
    "Caption": "perception_encoder.inference.conversation.captions",
    "Classification": "perception_encoder.evaluation.classification.labels",
    "DepthEstimate": "perception_encoder.dense_prediction.predictions",
    "Detections": "perception_encoder.dense_prediction.predictions",
    "EmbedReport": "perception_encoder.inference.output",
    "Encoder": "perception_encoder.inference.encoder",
    "EngineReport": "perception_encoder.video_data_engine.run",
    "Head": "perception_encoder.dense_prediction.heads",
    "Hit": "perception_encoder.search.ranking",
    "Index": "perception_encoder.search.index",
    "LayerFeatures": "perception_encoder.inference.layer_features",
    "Message": "perception_encoder.preprocess.conversation",
    "Region": "perception_encoder.dense_prediction.predictions",
    "Reply": "perception_encoder.preprocess.conversation",
    "Sampling": "perception_encoder.preprocess.conversation",
    "SearchResult": "perception_encoder.search.ranking",
    "Segmentation": "perception_encoder.dense_prediction.predictions",
    "TrackedFrame": "perception_encoder.dense_prediction.predictions",
    "TrainingResult": "perception_encoder.stages",
    "UpdateReport": "perception_encoder.search.storage.update",
    "VideoDataset": "perception_encoder.video_dataset.dataset",
    "VideoSelection": "perception_encoder.video_dataset.dataset",
    "analyze_layers": "perception_encoder.api",
    "classify": "perception_encoder.evaluation.classification.labels",
    "compare": "perception_encoder.api",
    "convert": "perception_encoder.models.checkpoints.layout_directory",
    "create_model": "perception_encoder.models.checkpoints.weights",
    "depth": "perception_encoder.dense_prediction.heads",
    "detect": "perception_encoder.dense_prediction.heads",
    "embed": "perception_encoder.inference.output",
    "evaluate": "perception_encoder.api",
    "export_lang": "perception_encoder.language_alignment.load",
    "export_onnx": "perception_encoder.dense_prediction.export",
    "from_state_dict": "perception_encoder.models.checkpoints.weights",
    "image_transform": "perception_encoder.preprocess.image",
    "list_models": "perception_encoder.models.registry",
    "list_recipes": "perception_encoder.stages",
    "load": "perception_encoder.inference.load",
    "load_assistant": "perception_encoder.language_alignment.load",
    "load_head": "perception_encoder.dense_prediction.heads",
    "load_layers": "perception_encoder.inference.load",
    "open_index": "perception_encoder.search.index",
    "open_video_dataset": "perception_encoder.video_dataset.dataset",
    "pad_images": "perception_encoder.preprocess.image",
    "plan": "perception_encoder.stages",
    "published_state_dict": "perception_encoder.models.checkpoints.weights",
    "refine_captioner": "perception_encoder.video_data_engine.refine",
    "run_engine": "perception_encoder.video_data_engine.run",
    "search_files": "perception_encoder.search.index",
    "segment": "perception_encoder.dense_prediction.heads",
    "serve": "perception_encoder.api",
    "tokenizer": "perception_encoder.preprocess.tokenizer",
    "track": "perception_encoder.dense_prediction.tracking",
    "train": "perception_encoder.stages",
}

__all__ = [
    "Answer",
    "Assistant",
    "Caption",
    "Classification",
    "DepthEstimate",
    "Detections",
    "EmbedReport",
    "Encoder",
    "EngineReport",
    "Head",
    "Hit",
    "Index",
    "LayerFeatures",
    "Message",
    "Region",
    "Reply",
    "Sampling",
    "SearchResult",
    "Segmentation",
    "TrackedFrame",
    "TrainingResult",
    "UpdateReport",
    "VideoDataset",
    "VideoSelection",
    "__version__",
    "analyze_layers",
    "classify",
    "compare",
    "convert",
    "create_model",
    "depth",
    "detect",
    "embed",
    "errors",
    "evaluate",
    "export_lang",
    "export_onnx",
    "from_state_dict",
    "image_transform",
    "list_models",
    "list_recipes",
    "load",
    "load_assistant",
    "load_head",
    "load_layers",
    "open_index",
    "open_video_dataset",
    "pad_images",
    "plan",
    "published_state_dict",
    "refine_captioner",
    "run_engine",
    "search_files",
    "segment",
    "serve",
    "tokenizer",
    "track",
    "train",
]


def __getattr__(name: str) -> Any:
    if name == "errors":
        return import_module("perception_encoder.errors")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
