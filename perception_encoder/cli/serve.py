"""`pe serve`: a search page for a directory, and embeddings and conversations over HTTP."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from perception_encoder.cli import default_model, options, output
from perception_encoder.cli.options import argument, flag, option
from perception_encoder.errors import MissingExtraError

if TYPE_CHECKING:
    from fastapi import FastAPI

    from perception_encoder.serving.queues import GenerationQueue
    from perception_encoder.serving.requests import ApiConfig

ORIGINS = "Origins of web pages that may use the API (CORS), such as https://app.example [default: none]."
DIRECTORY = "Directory to search in the browser; it is indexed first if it has no index."
MODELS = "Further models"
CHAT = "Serve /v1/chat/completions with this language model, loaded at the first request [default: none]."
ASK = """Answer questions on the page with this language model, loaded for the first question [default: none]. On a CPU
an answer takes seconds and slows down searches."""
FEATURES = """Also show the features of this model's last layer, such as a PE-Spatial's; loaded when first shown
[default: none]."""
DEPTH = """Show depth by this head: a file of pe train depth, or builtin-depth, a demo; loaded when first shown
[default: see `pe models use`]."""
ChatModel = Annotated[str | None, option(CHAT, "NAME", MODELS)]
AskModel = Annotated[str | None, option(ASK, "NAME", MODELS)]
FeaturesModel = Annotated[str | None, option(FEATURES, "NAME", MODELS, advanced=True)]
DepthHeadName = Annotated[str | None, option(DEPTH, "HEAD", MODELS, advanced=True)]


def serve(
    directory: Annotated[Path | None, argument("DIR", DIRECTORY)] = None,
    api: Annotated[bool, flag("--api", "Serve /v1/embeddings, /v1/models, /health, /metrics.")] = False,
    model: options.IndexModel = None,
    home: options.IndexHome = None,
    lan: options.Lan = False,
    host: options.Host = None,
    port: options.Port = 8000,
    key: options.Key = None,
    origins: Annotated[str | None, option(ORIGINS, "URL,URL,...", options.NETWORK, advanced=True)] = None,
    waiting: Annotated[
        int, option("Maximum length of the API's queue; further inputs get status 429.", least=1, advanced=True)
    ] = 4096,
    chat_model: ChatModel = None,
    ask_model: AskModel = None,
    features_model: FeaturesModel = None,
    depth_head: DepthHeadName = None,
) -> None:
    """Search in the browser, or embed over HTTP.

    Search by text, by an image or a video, or for more like a hit, with filters. New, changed and deleted files are
    picked up every ten seconds, or at once with the Rescan button. In the Features tab of an image, click a point to
    segment the region like it, and track it through a video. By default only this machine can open the page. With
    --lan, or with --host and --key, other devices can too: open the printed address there. Every browser needs the key
    once. The connection is not encrypted, so use it only on a network that you trust.

    The API accepts OpenAI's embedding requests (with infinity's `modality` for images and videos) and vLLM's
    `messages`; images are data URIs or public addresses, never paths. The chat API takes OpenAI's requests, with images
    and videos, and answers one at a time. Put a public server behind a proxy with TLS and rate limits.

    Examples:

        pe serve photos
        pe serve photos --lan         # open http://192.168.1.5:8000/?key=… on the phone
        pe serve photos --ask-model builtin-lang
        pe serve photos -m PE-Core-L14-336 --features-model PE-Spatial-L14-448
        pe serve photos --depth-head runs/depth/head.safetensors
        pe serve --api --chat-model facebook/Perception-LM-1B
        pe serve --api -m PE-Core-L14-336 --host 0.0.0.0 --key SECRET
        curl localhost:8000/v1/embeddings -d '{"input": ["a red mug"], "model": "builtin"}'
        curl localhost:8000/v1/embeddings -d '{"input": "https://example.com/mug.jpg", "modality": "image"}'
    """
    from perception_encoder.serving.requests import ApiConfig, check_origins
    from perception_encoder.serving.server import choose_key, listen, page_address, reachable_names, run_server

    directory = directory or home
    if origins and not api:
        raise typer.BadParameter("--origins needs --api")
    check_models(directory, api, chat_model, ask_model, features_model, depth_head)
    host = host or ("0.0.0.0" if lan else "127.0.0.1")
    given_key, key = key, choose_key(host, lan, key)
    config = ApiConfig(key=key, waiting=waiting, origins=check_origins(options.items_of(origins or "")))
    if importlib.util.find_spec("uvicorn") is None:
        raise MissingExtraError("uvicorn", "search")
    with listen(host, port) as listener:  # before anything that takes long
        names = reachable_names(host)
        chat, ask = language_queues(chat_model, ask_model)
        others = chat, ask, features_model or "", depth_head or default_model.default_model("depth")
        server, source, name = make_server(directory, home, api, model, config, host, names, *others)
        if directory is None:
            output.print_line(f"{name} at {page_address(names[0], listener, None)}/v1/embeddings")
        else:
            output.print_line(f"{name} over {directory} at {page_address(names[0], listener, key)}")
        if directory is None and key and not given_key:
            output.print_line(f"clients send: Authorization: Bearer {key}")
        default_model.print_demo(source, chat_model, ask_model, option=model)
        run_server(server, listener)


def make_server(
    directory: Path | None,
    home: Path | None,
    api: bool,
    model: str | None,
    config: ApiConfig,
    host: str,
    names: tuple[str, ...],
    chat: GenerationQueue | None,
    ask: GenerationQueue | None,
    features_model: str,
    depth_head: str,
) -> tuple[FastAPI, str, str]:
    """Make the page of a directory, the API, or both; returns also the source and the name of the model."""
    from perception_encoder.dense_prediction.dense_model import find_head
    from perception_encoder.inference.load import load
    from perception_encoder.search.web.library import open_library
    from perception_encoder.search.web.responses import stored_secret
    from perception_encoder.search.web.server import create_page
    from perception_encoder.serving.api import create_app
    from perception_encoder.serving.server import HOSTS

    hosts = (*names, host, *HOSTS)
    if directory is None:
        source = model or default_model.default_model()
        encoder = load(source)
        return create_app(encoder, replace(config, source=source), hosts, chat=chat), source, encoder.name
    library = open_library(directory, model, home)
    source, encoder = library.index.settings["source"], library.encoder
    note, secret = (
        default_model.demo_line(source, model),
        stored_secret(default_model.config_directory() / "page-secret"),
    )
    page = create_page(library, hosts, note, config.key, ask, features_model, find_head(depth_head), secret)
    library.watch()
    if not api:
        return page, source, encoder.name
    both = create_app(encoder, replace(config, source=source), hosts, library.model_thread, chat)
    both.mount("/", page)
    return both, source, encoder.name


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
    from perception_encoder.language_alignment.load import check_name, load_assistant
    from perception_encoder.serving.queues import GenerationQueue

    queues: dict[str | None, GenerationQueue] = {}
    for name in {name for name in names if name}:
        check_name(name, find=True)
        if not name.startswith(("http", "python:")) and importlib.util.find_spec("transformers") is None:
            raise MissingExtraError("transformers", "lang")
        label = Path(name).name if Path(name).exists() else name
        queues[name] = GenerationQueue(label, partial(load_assistant, name), source=name)
    return [queues.get(name) for name in names]
