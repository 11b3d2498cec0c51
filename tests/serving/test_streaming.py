"""Streamed answers end with what they are made from; see also test_chat."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import httpx
import pytest
from fastapi import FastAPI, Request, Response
from fastapi.testclient import TestClient

from perception_encoder.serving.parsing import ApiError
from perception_encoder.serving.streaming import stream_response, unless_gone
from tests.serving.servers import served


def test_the_source_is_closed_at_the_end() -> None:
    closed: list[bool] = []

    async def numbers() -> AsyncGenerator[bytes, None]:
        try:
            for number in range(3):
                yield b"%d" % number
        finally:
            closed.append(True)

    async def answer(request: Request) -> Response:
        source = numbers()
        return stream_response(source, source, "text/plain")

    app = FastAPI()
    app.router.add_route("/", answer)
    with TestClient(app) as client:
        response = client.get("/")
    assert response.text == "012" and closed == [True] and response.headers["cache-control"] == "no-store"


def test_work_is_cancelled_if_the_client_disconnects() -> None:
    ends: list[str] = []

    async def work() -> str:
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            ends.append("cancelled")
            raise
        return "done"

    async def answer(request: Request) -> Response:
        try:
            return Response(await unless_gone(request, work()))
        except ApiError as error:
            ends.append(str(error))
            raise

    app = FastAPI()
    app.router.add_route("/", answer)
    app.add_exception_handler(ApiError, lambda request, error: Response(status_code=error.status))
    with served(app) as address, pytest.raises(httpx.ReadTimeout):
        httpx.get(address, timeout=0.5)
    assert ends == ["cancelled", "the client has gone"]


def test_the_results_and_errors_of_work_are_passed_on() -> None:
    async def fail() -> None:
        raise ApiError(418, "a teapot")

    async def seven() -> int:
        return 7

    async def run() -> None:
        async def receive() -> dict:
            await asyncio.sleep(30)
            return {}

        request = Request({"type": "http"}, receive)
        assert await unless_gone(request, seven()) == 7
        with pytest.raises(ApiError, match="a teapot"):
            await unless_gone(request, fail())

    asyncio.run(run())
