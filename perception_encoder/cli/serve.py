"""`pe serve`: a page over a folder, and embeddings over HTTP."""

from __future__ import annotations

import importlib.util
import ipaddress
from pathlib import Path
from typing import Annotated

import typer

from perception_encoder.cli import default_model, output
from perception_encoder.errors import ConfigError, MissingExtraError

app = typer.Typer()

KEY = "What clients must send as `Authorization: Bearer KEY`; needed for any host but this machine."
FOLDER = "Folder to look through in the browser; it gets an index if it has none, in an indexed folder too."


@app.command()
def serve(
    folder: Annotated[Path | None, typer.Argument(help=FOLDER)] = None,
    api: Annotated[bool, typer.Option("--api", help="Answer /v1/embeddings, /v1/models, /health, /metrics.")] = False,
    model: Annotated[str | None, typer.Option(help=default_model.INDEX_OPTION)] = None,
    home: Annotated[Path | None, typer.Option("--index", metavar="DIR", help="Directory that holds the index.")] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on.")] = 8000,
    key: Annotated[str | None, typer.Option(envvar="PE_API_KEY", help=KEY)] = None,
    waiting: Annotated[int, typer.Option(min=1, help="Inputs that may wait; beyond it the answer is 429.")] = 4096,
) -> None:
    """Look through a folder in the browser, or embed for other programs.

    The page is for this machine alone: search by words, by a dropped image or by what is like one, with filters.
    New, changed and removed files are looked for every ten seconds, and at a button. The API speaks OpenAI's dialect
    (with infinity's `modality` for images and videos) and vLLM's `messages`; images come as data URIs or public
    addresses, never as paths. A server that others reach belongs behind a proxy, which does TLS and limits clients.

    Examples:

        pe serve photos
        pe serve --api --model PE-Core-L14-336 --host 0.0.0.0 --key SECRET
        curl localhost:8000/v1/embeddings -d '{"input": ["a red mug"], "model": "builtin"}'
        curl localhost:8000/v1/embeddings -d '{"input": "https://example.com/mug.jpg", "modality": "image"}'
    """
    from perception_encoder.inference.encoder import load
    from perception_encoder.search.web.library import open_library
    from perception_encoder.search.web.server import create_page
    from perception_encoder.serving.api import create_app
    from perception_encoder.serving.guard import HOSTS
    from perception_encoder.serving.requests import ApiConfig
    from perception_encoder.serving.server import listen, run_server

    folder = folder or home
    if folder is None and not api:
        raise typer.BadParameter("say what to serve: a folder, or --api")
    if not is_loopback(host) and (folder is not None or key is None):
        remedy = "the page is for this machine alone" if folder else "choose a --key that clients must send"
        raise ConfigError(f"others can reach {host}; {remedy}")
    if importlib.util.find_spec("uvicorn") is None:
        raise MissingExtraError("uvicorn", "search")
    with listen(host, port) as listener:  # before anything that takes long
        if folder is None:
            source = model or default_model.default_model()
            encoder = load(source)
            server = create_app(encoder, ApiConfig(key=key, waiting=waiting, source=source), (host, *HOSTS))
        else:
            library = open_library(folder, model, home, default_model.default_model)
            source, encoder = library.index.settings["source"], library.encoder
            server = create_page(library, (host, *HOSTS), default_model.demo_line(source, model))
            library.watch()
            if api:
                config = ApiConfig(key=key, waiting=waiting, source=source)
                both = create_app(encoder, config, (host, *HOSTS), library.model_thread)
                both.mount("/", server)
                server = both
        what, path = ("", "/v1/embeddings") if folder is None else (f" over {folder}", "")
        output.print_line(f"{encoder.name}{what} at http://{host}:{listener.getsockname()[1]}{path}")
        default_model.say_demo(source, model)
        run_server(server, listener)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
