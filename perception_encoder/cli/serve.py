"""`pe serve`: embeddings over HTTP."""

from __future__ import annotations

import ipaddress
from typing import Annotated

import typer

from perception_encoder.cli import output
from perception_encoder.errors import ConfigError, MissingExtraError

app = typer.Typer()

KEY = "What clients must send as `Authorization: Bearer KEY`; needed for any host but this machine."


@app.command()
def serve(
    api: Annotated[
        bool, typer.Option("--api", help="Answer /v1/embeddings, /v1/models, /health and /metrics.")
    ] = False,
    model: Annotated[str, typer.Option(help="Name, alias or checkpoint of a model.")] = "builtin",
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on.")] = 8000,
    key: Annotated[str | None, typer.Option(envvar="PE_API_KEY", help=KEY)] = None,
    waiting: Annotated[int, typer.Option(min=1, help="Inputs that may wait; beyond it the answer is 429.")] = 1024,
) -> None:
    """Embed texts, pictures and videos for other programs, over HTTP.

    The server speaks OpenAI's dialect (with infinity's `modality` for pictures and videos) and vLLM's `messages`.
    Requests that come together are encoded together. Pictures and videos come as data URIs or as http(s) addresses;
    addresses that are not public are refused, and nothing that a client sends is taken for a file of this machine.

    Examples:

        pe serve --api
        pe serve --api --model PE-Core-L14-336 --host 0.0.0.0 --key SECRET
        curl localhost:8000/v1/embeddings -d '{"input": ["a red mug"], "model": "builtin"}'
        curl localhost:8000/v1/embeddings -d '{"input": "https://example.com/mug.jpg", "modality": "image"}'
    """
    from perception_encoder.inference.encoder import load
    from perception_encoder.search.api import ApiConfig, create_app

    if not api:
        raise typer.BadParameter("say what to serve: --api")
    if key is None and not is_loopback(host):
        raise ConfigError(f"others can reach {host}; choose a --key that clients must send (or set PE_API_KEY)")
    try:
        import uvicorn
    except ImportError:
        raise MissingExtraError("uvicorn", "search") from None
    encoder = load(model)
    server = create_app(encoder, ApiConfig(key=key, waiting=waiting))
    output.print_line(f"{encoder.name} at http://{host}:{port}/v1/embeddings (Ctrl-C stops it)")
    uvicorn.run(server, host=host, port=port, log_level="warning", timeout_keep_alive=5)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
