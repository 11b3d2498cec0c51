"""Serve embeddings over HTTP, and ask for them with the `openai` client.

    python examples/serve_and_ask_with_openai.py mug.jpg "a red mug" "a dog"

Needs the extra `search` for the server (`pip install '.[search]'`), and `pip install openai` for the client.
"""

from __future__ import annotations

import argparse
import base64
import mimetypes
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from openai import OpenAI


def main() -> None:
    """Start the server, ask for the embeddings of an image and of some texts, and print how similar they are."""
    parser = argparse.ArgumentParser()
    parser.add_argument("image", type=Path)
    parser.add_argument("texts", nargs="+")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--model", default="builtin")
    arguments = parser.parse_args()

    command = [sys.executable, "-m", "perception_encoder", "serve", "--api", "--port", str(arguments.port)]
    server = subprocess.Popen([*command, "--model", arguments.model])
    try:
        url = f"http://127.0.0.1:{arguments.port}/v1"
        client = OpenAI(base_url=url, api_key="none", max_retries=15)  # it retries until the server has started
        texts = client.embeddings.create(model=arguments.model, input=arguments.texts)
        media_type = mimetypes.guess_type(arguments.image)[0]
        data = f"data:{media_type};base64,{base64.b64encode(arguments.image.read_bytes()).decode()}"
        media: Any = [{"image": data}]  # beyond OpenAI's own types, which know texts only
        image = client.embeddings.create(model=arguments.model, input=media)
    finally:
        server.terminate()
        server.wait()

    vectors = np.array([row.embedding for row in texts.data])  # (n, D), unit length
    for text, similarity in zip(arguments.texts, vectors @ np.array(image.data[0].embedding), strict=True):
        print(f"{similarity:.3f}  {text}")


if __name__ == "__main__":
    main()
