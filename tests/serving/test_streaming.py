"""Streamed answers end with what they are made from; see also test_chat."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing

import httpx
import pytest
from fastapi import FastAPI, Request, Response
from fastapi.testclient import TestClient

from perception_encoder.serving.parsing import ApiError
from perception_encoder.serving.streaming import pieces_from, stream_response, unless_gone
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


def test_pieces_come_from_a_thread_with_its_error() -> None:
    threads: set[int] = set()

    def work() -> Generator[int, None, None]:
        for number in range(3):
            threads.add(threading.get_ident())
            yield number
        raise ValueError("three is too many")

    async def collect() -> list[int]:
        numbers = []
        with pytest.raises(ValueError, match="three is too many"):
            async for number in pieces_from(thread, work):
                numbers.append(number)
        return numbers

    with ThreadPoolExecutor(1) as thread:
        assert asyncio.run(collect()) == [0, 1, 2]
    assert len(threads) == 1 and threading.get_ident() not in threads


def test_a_closed_reader_ends_the_work_and_a_waiting_one_never_begins() -> None:
    ends: list[str] = []

    def work(name: str) -> Generator[int, None, None]:
        try:
            for number in range(10_000):
                threading.Event().wait(0.01)
                yield number
        finally:
            ends.append(name)

    async def run() -> None:
        async with aclosing(pieces_from(thread, lambda: work("first"))) as first:
            assert await anext(first) == 0
            waiting = asyncio.ensure_future(anext(pieces_from(thread, lambda: work("second"))))
            await asyncio.sleep(0.05)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting

    with ThreadPoolExecutor(1) as thread:
        asyncio.run(run())
    assert ends == ["first"]


def test_work_that_waits_for_other_work_says_so_until_it_begins() -> None:
    async def collect() -> list[str]:
        other, slow = threading.Event(), threading.Event()
        found: list[str] = []

        def work() -> Generator[str, None, None]:
            before.append(len(found))
            slow.wait(0.1)  # begun, though without a piece
            yield "piece"

        with ThreadPoolExecutor(1) as thread:
            thread.submit(other.wait, 10)
            async with aclosing(pieces_from(thread, work, ("waiting", 0.02))) as pieces:
                async for piece in pieces:
                    found.append(piece)
                    if len(found) == 2:
                        other.set()
        return found

    before: list[int] = []
    found = asyncio.run(collect())
    assert found[:2] == ["waiting", "waiting"] and found[-1] == "piece"
    assert len(found) <= before[0] + 2  # one may be on its way
