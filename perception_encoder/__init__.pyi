"""The public names and their modules: read by type checkers, and on first use by `perception_encoder/__init__.py`."""

from . import errors as errors
from ._version import __version__ as __version__
from .api import (
    analyze_layers as analyze_layers,
    compare as compare,
    serve_api as serve_api,
    serve_immich as serve_immich,
    serve_search as serve_search,
)
from .exports.immich import export_immich as export_immich
from .exports.onnx import export_onnx as export_onnx
from .dense_prediction.heads import (
    Head as Head,
    depth as depth,
    detect as detect,
    load_head as load_head,
    segment as segment,
)
from .dense_prediction.predictions import (
    DepthEstimate as DepthEstimate,
    Detections as Detections,
    Region as Region,
    Segmentation as Segmentation,
    TrackedFrame as TrackedFrame,
)
from .dense_prediction.tracking import track as track
from .evaluations import evaluate as evaluate
from .evaluation.classification.zero_shot import Classification as Classification, classify as classify
from .conversation.assistant import Answer as Answer, Assistant as Assistant
from .conversation.captions import Caption as Caption
from .exports.layouts import convert as convert
from .inference.encoder import Encoder as Encoder
from .inference.layer_features import LayerFeatures as LayerFeatures
from .inference.load import load as load, load_layers as load_layers
from .inference.model_spec import ModelSpec as ModelSpec
from .inference.output import EmbedReport as EmbedReport, embed as embed
from .language_models.load import load_assistant as load_assistant
from .language_models.perception_lm import export_perception_lm as export_perception_lm
from .language_models.weights import export_lang as export_lang
from .model_choice import use_model as use_model
from .models.checkpoints.weights import (
    create_model as create_model,
    from_state_dict as from_state_dict,
    published_state_dict as published_state_dict,
)
from .models.registry import list_models as list_models
from .preprocess.conversation import Message as Message, Reply as Reply, Sampling as Sampling
from .preprocess.image import image_transform as image_transform, pad_images as pad_images
from .preprocess.tokenizer import tokenizer as tokenizer
from .exports.openvino import export_openvino as export_openvino
from .search.index import Index as Index, open_index as open_index, search_files as search_files
from .search.ranking import Hit as Hit, SearchResult as SearchResult
from .search.storage.update import UpdateReport as UpdateReport
from .serving.requests import ApiConfig as ApiConfig
from .stages import TrainingResult as TrainingResult, list_recipes as list_recipes, plan as plan, train as train
from .video_data_engine.refine import refine_captioner as refine_captioner
from .video_data_engine.run import EngineReport as EngineReport, run_engine as run_engine
from .video_dataset.annotation.server import serve_annotations as serve_annotations
from .video_dataset.dataset import (
    VideoDataset as VideoDataset,
    VideoSelection as VideoSelection,
    open_video_dataset as open_video_dataset,
)
from .words.reader import TextLine as TextLine, read_words as read_words
