"""`pe serve`: a page over a folder, and embeddings over HTTP."""

from __future__ import annotations

import importlib.util
import ipaddress
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import quote

import typer

from perception_encoder.cli import default_model, output
from perception_encoder.errors import ConfigError, MissingExtraError

if TYPE_CHECKING:
    from fastapi import FastAPI

app = typer.Typer()

KEY = "Key that others need: for the page in its address, for the API as `Authorization: Bearer KEY`."
LAN = "Let devices in your network open the page; makes a key if --key is missing."
FOLDER = "Folder to look through in the browser; it gets an index if it has none, in an indexed folder too."


@app.command()
def serve(
    folder: Annotated[Path | None, typer.Argument(help=FOLDER)] = None,
    api: Annotated[bool, typer.Option("--api", help="Answer /v1/embeddings, /v1/models, /health, /metrics.")] = False,
    model: Annotated[str | None, typer.Option(help=default_model.INDEX_OPTION)] = None,
    home: Annotated[Path | None, typer.Option("--index", metavar="DIR", help="Directory that holds the index.")] = None,
    lan: Annotated[bool, typer.Option("--lan", help=LAN)] = False,
    host: Annotated[
        str | None, typer.Option(help="Address to listen on.", show_default="127.0.0.1; with --lan, all")
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on.")] = 8000,
    key: Annotated[str | None, typer.Option(envvar="PE_API_KEY", help=KEY)] = None,
    waiting: Annotated[int, typer.Option(min=1, help="Inputs that may wait; beyond it the answer is 429.")] = 4096,
) -> None:
    """Look through a folder in the browser, or embed for other programs.

    Search by text, by an image or video, or for more like a hit, with filters. New, changed and removed files are
    found every ten seconds, and with the button Rescan. The page is for this machine alone unless you give --lan, or
    --host and --key: then open the printed address on a phone in the same network. Its key is needed once for each
    browser. The connection is not encrypted, so use it in a network that you trust.

    The API speaks OpenAI's dialect (with infinity's `modality` for images and videos) and vLLM's `messages`; images
    come as data URIs or public addresses, never as paths. A public server belongs behind a proxy, which does TLS and
    limits clients.

    Examples:

        pe serve photos
        pe serve photos --lan         # open http://192.168.1.5:8000/?key=… on the phone
        pe serve photos --host 192.168.1.5 --key SECRET
        pe serve --api --model PE-Core-L14-336 --host 0.0.0.0 --key SECRET
        curl localhost:8000/v1/embeddings -d '{"input": ["a red mug"], "model": "builtin"}'
        curl localhost:8000/v1/embeddings -d '{"input": "https://example.com/mug.jpg", "modality": "image"}'
    """
    from perception_encoder.serving.server import listen, reachable_names, run_server

    folder = folder or home
    if folder is None and not api:
        raise typer.BadParameter("say what to serve: a folder, or --api")
    host = host or ("0.0.0.0" if lan else "127.0.0.1")
    given, key = key, choose_key(host, lan, key)
    if importlib.util.find_spec("uvicorn") is None:
        raise MissingExtraError("uvicorn", "search")
    with listen(host, port) as listener:  # before anything that takes long
        names = reachable_names(host)
        server, source, name = create_server(folder, home, api, model, waiting, key, host, names)
        what, path = ("", "/v1/embeddings") if folder is None else (f" over {folder}", "")
        if folder is not None and key and not is_loopback(host):
            path = f"/?key={quote(key, safe='')}"
        output.print_line(f"{name}{what} at http://{names[0]}:{listener.getsockname()[1]}{path}")
        if folder is None and key and not given:
            output.print_line(f"clients send: Authorization: Bearer {key}")
        default_model.say_demo(source, model)
        run_server(server, listener)


def choose_key(host: str, lan: bool, key: str | None) -> str | None:
    """The key that was given, or a new one for --lan; ConfigError if others can reach the address and there is none."""
    if is_loopback(host):
        if lan:
            raise ConfigError(f"only this machine can reach {host}; leave out --lan or --host")
        return key
    if not key and not lan:
        raise ConfigError(f"others can reach {host}; choose a --key that they need, or let --lan make one")
    return key or secrets.token_urlsafe(16)


def create_server(
    folder: Path | None,
    home: Path | None,
    api: bool,
    model: str | None,
    waiting: int,
    key: str | None,
    host: str,
    names: tuple[str, ...],
) -> tuple[FastAPI, str, str]:
    """The page of a folder, the API, or both; with the model's source and name."""
    from perception_encoder.inference.encoder import load
    from perception_encoder.search.web.library import open_library
    from perception_encoder.search.web.server import create_page
    from perception_encoder.serving.api import create_app
    from perception_encoder.serving.guard import HOSTS
    from perception_encoder.serving.requests import ApiConfig

    hosts = (*names, host, *HOSTS)
    if folder is None:
        source = model or default_model.default_model()
        encoder = load(source)
        return create_app(encoder, ApiConfig(key=key, waiting=waiting, source=source), hosts), source, encoder.name
    library = open_library(folder, model, home, default_model.default_model)
    source, encoder = library.index.settings["source"], library.encoder
    note = default_model.demo_line(source, model)
    page = create_page(library, hosts, note, None if is_loopback(host) else key)
    library.watch()
    if not api:
        return page, source, encoder.name
    both = create_app(encoder, ApiConfig(key=key, waiting=waiting, source=source), hosts, library.model_thread)
    both.mount("/", page)
    return both, source, encoder.name


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
