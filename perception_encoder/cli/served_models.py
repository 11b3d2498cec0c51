"""The models that `pe serve` takes besides the encoder: for chats and questions, and for features and depth."""

from __future__ import annotations

import importlib.util
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from perception_encoder.cli.options import option
from perception_encoder.errors import MissingExtraError

if TYPE_CHECKING:
    from perception_encoder.serving.generation import GenerationQueue

MODELS = "Further models"
CHAT = "Serve /v1/chat/completions with this language model, loaded at the first request [default: none]."
ASK = """Answer questions on the page with this language model, loaded at the first one [default: none]. builtin-lang
takes about 1 GB of memory. On a CPU an answer takes seconds, and slows down searches meanwhile."""
FEATURES = """Show the last layer of this model, such as a PE-Spatial, beside the features of the index's own. It is
loaded when an image's features are first looked at [default: none]."""
DEPTH = """A file of pe train depth, or builtin-depth, a demo. The page shows depth by it; it is loaded, with an encoder
of its own, when an image's depth is first looked at [default: see `pe models use`]."""
ChatModel = Annotated[str | None, option(CHAT, "NAME", MODELS)]
AskModel = Annotated[str | None, option(ASK, "NAME", MODELS)]
FeaturesModel = Annotated[str | None, option(FEATURES, "NAME", MODELS)]
DepthHeadName = Annotated[str | None, option(DEPTH, "HEAD", MODELS)]


def check_models(
    directory: Path | None,
    api: bool,
    chat_model: str | None,
    ask_model: str | None,
    features_model: str | None,
    depth_head: str | None,
) -> None:
    """Check what is served before anything is loaded.

    Raises BadParameter for nothing, and for a model that nothing would use; UnknownModelError for features of an
    unknown one; CheckpointError or ConfigError for a file that is not a depth head's.
    """
    from perception_encoder.models.checkpoints.weights import find_weights

    if directory is None and not api:
        raise typer.BadParameter("nothing to serve: name a directory, or add --api")

    if (chat_model and not api) or (ask_model and directory is None):
        raise typer.BadParameter("--chat-model needs --api, and --ask-model needs a directory")
    if directory is None and features_model:
        raise typer.BadParameter("--features-model needs a directory")
    if directory is None and depth_head:
        raise typer.BadParameter("--depth-head needs a directory")
    if features_model:
        find_weights(features_model)
    if depth_head:
        from perception_encoder.dense_prediction.dense_model import find_head, read_head_info

        read_head_info(find_head(depth_head), "depth")


def language_queues(*names: str | None) -> list[GenerationQueue | None]:
    """Return the queue of each language model, which is loaded later, and once; None without a name."""
    from perception_encoder.language_alignment.load import find_language_model, load_language_model
    from perception_encoder.serving.generation import GenerationQueue

    queues: dict[str | None, GenerationQueue] = {}
    for name in {name for name in names if name}:
        find_language_model(name)
        if importlib.util.find_spec("transformers") is None:
            raise MissingExtraError("transformers", "lang")
        label = Path(name).name if Path(name).exists() else name
        queues[name] = GenerationQueue(label, partial(load_language_model, name), source=name)
    return [queues.get(name) for name in names]
