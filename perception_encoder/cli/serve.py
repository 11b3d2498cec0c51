"""`pe serve`: a search page over a directory, and embeddings over HTTP."""

from __future__ import annotations

import importlib.util
import ipaddress
from pathlib import Path
from typing import Annotated

import typer

from perception_encoder.cli import default_model, options, output
from perception_encoder.errors import ConfigError, MissingExtraError

app = typer.Typer()

KEY = "What clients must send as `Authorization: Bearer KEY`; needed for any host but this machine."
FOLDER = "Directory to search in the browser; it is indexed first if it has no index of its own."


@app.command()
def serve(
    folder: Annotated[Path | None, typer.Argument(metavar="DIR", help=FOLDER)] = None,
    api: Annotated[bool, typer.Option("--api", help="Serve /v1/embeddings, /v1/models, /health, /metrics.")] = False,
    model: options.IndexModel = None,
    home: options.IndexHome = None,
    host: Annotated[str, typer.Option(metavar="ADDRESS", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on.")] = 8000,
    key: Annotated[str | None, typer.Option(envvar="PE_API_KEY", help=KEY)] = None,
    waiting: Annotated[int, typer.Option(min=1, help="Length of the queue; further inputs get status 429.")] = 4096,
) -> None:
    """Search in the browser, or embed over HTTP.

    The page is for this machine only: search by text, by a dropped image or by a similar one, with filters. Added,
    changed and removed files are picked up within ten seconds. The API speaks OpenAI's dialect (with infinity's
    `modality` for images and videos) and vLLM's `messages`; images are data URIs or public addresses, never paths. Put
    a server that others can reach behind a proxy with TLS and rate limits.

    Examples:

        pe serve photos
        pe serve --api -m PE-Core-L14-336 --host 0.0.0.0 --key SECRET
        curl localhost:8000/v1/embeddings -d '{"input": ["a red mug"], "model": "builtin"}'
        curl localhost:8000/v1/embeddings -d '{"input": "https://example.com/mug.jpg", "modality": "image"}'
    """
    from perception_encoder.inference.encoder import load
    from perception_encoder.search.web.library import open_library
    from perception_encoder.search.web.server import create_page
    from perception_encoder.serving.api import create_app
    from perception_encoder.serving.api_requests import ApiConfig
    from perception_encoder.serving.guard import HOSTS
    from perception_encoder.serving.serving import listen, run

    folder = folder or home
    if folder is None and not api:
        raise typer.BadParameter("nothing to serve: name a directory, or add --api")
    if not is_loopback(host) and (folder is not None or key is None):
        remedy = "the page is for this machine only" if folder else "choose a --key that clients must send"
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
        default_model.print_demo(source, model)
        run(server, listener)


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
