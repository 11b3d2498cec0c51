"""`pe serve`: a search page over a directory, and embeddings and chats over HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from perception_encoder.cli import options, output
from perception_encoder.cli.options import argument, flag, option
from perception_encoder.inference.model_spec import DEFAULT

if TYPE_CHECKING:
    from perception_encoder.api import RunningServer

MODELS = "Further models"
ORIGINS = "Origins of web pages that may use the API (CORS), such as https://app.example [default: none]."
ALLOW_URLS = "Let clients of the API send images and videos by public http(s) address."
DIRECTORY = "Directory to search in the browser; it is indexed first if it has no index."
CHAT = "Serve /v1/chat/completions with this language model [default: none]."
ASK = "Answer questions on the page with this language model, such as builtin-lang, a demo [default: none]."
FEATURES = "Also show the features of this model, such as a PE-Spatial, on the page [default: none]."


def serve(
    directory: Annotated[Path | None, argument("DIR", DIRECTORY)] = None,
    api: Annotated[bool, flag("--api", "Serve /v1/embeddings, /v1/rerank, /v1/models, /health, /metrics.")] = False,
    model: options.IndexSpec = DEFAULT,
    home: options.IndexHome = None,
    lan: options.Lan = False,
    host: options.Host = None,
    port: options.Port = 8000,
    key: options.Key = None,
    exclude: options.Exclude = None,
    origins: Annotated[str | None, option(ORIGINS, "URL,URL,...", options.NETWORK, advanced=True)] = None,
    allow_urls: Annotated[bool, flag("--allow-urls", ALLOW_URLS, options.NETWORK, advanced=True)] = False,
    waiting: Annotated[
        int, option("Maximum number of inputs that wait; more get status 429.", least=1, advanced=True)
    ] = 4096,
    chat_model: Annotated[str | None, option(CHAT, "NAME", MODELS)] = None,
    ask_model: Annotated[str | None, option(ASK, "NAME", MODELS)] = None,
    features_model: Annotated[str | None, option(FEATURES, "NAME", MODELS, advanced=True)] = None,
) -> None:
    """Search in the browser, or serve HTTP APIs.

    On the page, search by text, image or video, find similar images, and filter. Added, changed and deleted files
    appear within ten seconds. Only this machine can open the page, unless you add --lan, or --host and --key: then
    open the printed address on another device. The connection is not encrypted, so use it only in a network that you
    trust. Further models are loaded at their first use; builtin-lang takes 1 GB of memory.

    The API accepts OpenAI's requests for embeddings and chats, and requests to rerank as clients of Cohere and Jina
    send them; images and videos are data URIs. Put a public server behind a proxy with TLS and rate limits.

    Examples:

        pe serve photos
        pe serve photos --lan         # open http://192.168.1.5:8000/?key=… on the phone
        pe serve photos --ask-model builtin-lang
        pe serve photos -m PE-Core-L14-336 --features-model PE-Spatial-L14-448
        pe serve --api --chat-model facebook/Perception-LM-1B
        pe serve --api -m PE-Core-L14-336 --host 0.0.0.0 --key SECRET
        curl localhost:8000/v1/embeddings -d '{"input": ["a red mug"], "model": "builtin"}'
        curl localhost:8000/v1/embeddings -d '{"input": {"image": "data:image/jpeg;base64,…"}}'
    """
    arguments = options.without(locals(), "directory", "home", "origins")
    from perception_encoder import api as public

    def show(server: RunningServer) -> None:
        searched = directory or home
        output.print_line(f"{server.name}{f' over {searched}' if searched else ''} at {server.address}")
        if server.new_key:
            output.print_line(f"clients send: Authorization: Bearer {server.new_key}")
        output.print_demo(server.source, chat_model, ask_model)

    pages = options.items_of(origins) if origins else ()
    public.serve(directory, index=home, origins=pages, **arguments, on_start=show)
