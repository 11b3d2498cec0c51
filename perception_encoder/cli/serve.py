"""`pe serve`: the search page in the browser, the API, and answers for photo servers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from perception_encoder.cli import options, output
from perception_encoder.cli.options import argument, flag, option
from perception_encoder.errors import ConfigError
from perception_encoder.inference.model_spec import DEFAULT

MODELS = "Further models"
ORIGINS = "Origins of web pages that may use the API (CORS), such as https://app.example [default: none]."
ALLOW_URLS = "Let clients of the API send images and videos by public http(s) address."
DIRECTORY = "Directory to search in the browser; it is indexed first if it has no index."
CHAT = "Serve /v1/chat/completions with this language model [default: none]."
ASK = "Answer questions on the page with this language model, such as builtin-lang, a demo [default: none]."
UPSTREAM = "Pass requests for faces (without the extra `words`, also for text in images) on to this server."
CLIP_ONLY = "Refuse these requests, if the photo server's jobs for them are switched off."
FEATURES = "Also show the features of this model, such as a PE-Spatial, on the page [default: none]."


def serve(
    directory: Annotated[Path | None, argument("DIR", DIRECTORY)] = None,
    api: Annotated[bool, flag("--api", "Serve /v1/embeddings, /v1/rerank, /v1/models, /health.")] = False,
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
    immich: Annotated[
        bool, flag("--immich", "Answer immich, or a photo server that asks as it does, instead.")
    ] = False,
    immich_upstream: Annotated[str | None, option(UPSTREAM, "URL", options.NETWORK, advanced=True)] = None,
    immich_clip_only: Annotated[bool, flag("--immich-clip-only", CLIP_ONLY, options.NETWORK, advanced=True)] = False,
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
        pe serve --immich -m PE-Core-S16-384 --port 3003 --immich-upstream http://localhost:3004
        curl localhost:8000/v1/embeddings -d '{"input": ["a red mug"], "model": "builtin"}'
        curl localhost:8000/v1/embeddings -d '{"input": {"image": "data:image/jpeg;base64,…"}}'
    """
    from perception_encoder import api as public

    def show(server: public.RunningServer) -> None:
        searched = directory or home
        served = f"{searched} (model {server.name})" if searched else server.name
        output.print_line(f"Serving {served} at {server.address}")
        if server.new_key:
            output.print_line(f"clients send: Authorization: Bearer {server.new_key}")
        output.print_demo(server.source, chat_model, ask_model)

    page = directory is not None or home is not None
    api_only = {"--chat-model": chat_model, "--origins": origins, "--allow-urls": allow_urls}
    page_only = {"--ask-model": ask_model, "--features-model": features_model}
    if immich:
        others = given({"DIR": page, "--api": api, "--key": key, "--lan": lan, **api_only, **page_only})
        if others:
            raise ConfigError(f"--immich serves photo servers alone, which send no key; omit {', '.join(others)}")
        return public.serve_immich(
            model,
            upstream=immich_upstream,
            clip_only=immich_clip_only,
            waiting=waiting,
            host=host,
            port=port,
            on_start=show,
        )
    if immich_upstream or immich_clip_only:
        raise ConfigError("--immich-upstream and --immich-clip-only need --immich")
    if not page and not api:
        raise ConfigError("nothing to serve: name a directory, or add --api")
    for served, missing, only in ((api, "--api", api_only), (page, "a directory", page_only)):
        if not served and (others := given(only)):
            raise ConfigError(f"{others[0]} needs {missing}")
    network: dict[str, Any] = {"lan": lan, "host": host, "port": port, "key": key}
    config = None
    if api:
        from perception_encoder.serving.requests import ApiConfig

        sites = tuple(options.items_of(origins)) if origins else ()
        config = ApiConfig(chat_model=chat_model, origins=sites, allow_urls=allow_urls, waiting=waiting)
    if not page:
        return public.serve_api(model, api=config, on_start=show, **network)
    public.serve_search(
        directory,
        index=home,
        model=model,
        exclude=exclude,
        ask_model=ask_model,
        features_model=features_model,
        api=config,
        on_start=show,
        **network,
    )


def given(arguments: Mapping[str, object]) -> list[str]:
    """Return the names of options that are given."""
    return [name for name, value in arguments.items() if value]
