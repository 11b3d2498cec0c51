"""The annotation page in a real browser: keys, frames, autosave, two people at once, and a server that is killed."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from perception_encoder.formats.shards import json_bytes, write_members
from perception_encoder.video_dataset.annotation.progress import count_progress, read_refinements
from perception_encoder.video_dataset.annotation.project import AnnotationProject
from perception_encoder.video_dataset.annotation.server import create_annotation_page
from tests.serving.servers import served
from tests.video_dataset.clips import fields, long_clip, small_dataset, write_dataset

pytestmark = pytest.mark.browser
ORIGINAL = "A red boat number 0 drifts on a lake."
NUMBER = """() => {
    const video = document.getElementById("video"), canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [128, 64];
    canvas.getContext("2d").drawImage(video, 0, 0);
    const { data } = canvas.getContext("2d").getImageData(0, 0, 128, 64);
    return [...Array(8).keys()].reduce((n, bit) => n + (data[4 * (128 * 16 + 16 * bit + 8)] > 128 ? 1 << bit : 0), 0);
}"""
"""The number that the frame on the screen carries: see `tests.clips`."""
PLAYS = "!video.paused && video.currentTime > 0.05"


@pytest.fixture
def address(project: AnnotationProject) -> Iterator[str]:
    with served(create_annotation_page(project)) as address:
        yield address


Open = Callable[..., Page]


@pytest.fixture
def open_page(browser: Browser, address: str) -> Iterator[Open]:
    """`open_page("anna")` opens the page in a browser profile of its own; errors of its scripts fail the test."""
    contexts: list[BrowserContext] = []
    errors: list[str] = []

    def open_page(person: str, base: str = address, context: BrowserContext | None = None) -> Page:
        if context is None:
            context = browser.new_context(viewport={"width": 1200, "height": 800})
            contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(f"{base}/?as={person}")
        expect(page.locator("#show-name")).to_have_text(person)
        expect(page.locator("main:visible")).to_be_visible()
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert errors == []


def wait_until(page: Page, condition: str) -> None:
    """Wait for a JavaScript expression on `video` to hold; the page's policy forbids Playwright's way, eval."""
    deadline = time.monotonic() + 20
    while not page.evaluate(f"() => {{ const video = document.getElementById('video'); return {condition}; }}"):
        assert time.monotonic() < deadline, condition
        page.wait_for_timeout(30)


def wait_for_frame(page: Page, number: int) -> None:
    """Wait until the frame with this number is on the screen: it is painted some time after the seek."""
    deadline = time.monotonic() + 20
    while (seen := page.evaluate(NUMBER)) != number:
        assert time.monotonic() < deadline, f"frame {seen}, not {number}"
        page.wait_for_timeout(30)


def refined(project: AnnotationProject) -> dict[str, str]:
    return {refinement.key: refinement.caption for refinement in read_refinements(project)}


def write(page: Page, text: str) -> None:
    """Replace the caption by keys."""
    page.keyboard.press("Enter")
    page.keyboard.press("Control+a")
    page.keyboard.insert_text(text)


def test_a_video_is_annotated_by_keys_alone(open_page: Open, project: AnnotationProject) -> None:
    page = open_page("anna")
    wait_until(page, PLAYS)
    expect(page.locator("#difference")).to_have_text(f"{ORIGINAL} ")
    expect(page.locator("#changes")).to_have_text("unchanged")
    page.keyboard.press("Enter")
    page.keyboard.press("Control+Home")
    for _ in range(2):
        page.keyboard.press("Control+ArrowRight")
    page.keyboard.press("Control+Shift+ArrowLeft")
    page.keyboard.type("small")  # instead of red
    page.keyboard.press("Control+End")
    page.keyboard.press("Enter")
    page.keyboard.type("Mist rises.")
    expect(page.locator("#difference del")).to_have_text("red")
    expect(page.locator("#difference ins")).to_have_text(["small", "Mist rises."])
    expect(page.locator("#changes")).to_have_text("words: 1 removed, 3 added")
    page.keyboard.press("Control+Enter")
    expect(page.locator("#error")).to_contain_text("has no rating")
    page.keyboard.press("Escape")
    page.keyboard.press("4")
    expect(page.locator("#meaning")).to_have_text("Small flaws")
    page.keyboard.press("Control+Enter")
    expect(page.locator("#about")).to_contain_text("v1")
    assert refined(project) == {"v0": "A small boat number 0 drifts on a lake.\nMist rises."}
    (refinement,) = read_refinements(project)
    assert refinement.original == ORIGINAL and refinement.rating == 4


def test_frames_speed_and_loop(open_page: Open) -> None:
    page = open_page("anna")
    wait_until(page, PLAYS)
    page.keyboard.press("Space")
    wait_until(page, "video.paused")
    page.keyboard.press("Home")
    wait_until(page, "!video.seeking && video.currentTime === 0")
    for key, number in zip("...,,,,.", (1, 2, 3, 2, 1, 0, 19, 0), strict=True):
        page.keyboard.press(key)
        wait_until(page, "!video.seeking")
        wait_for_frame(page, number)
    expect(page.locator("#time")).to_contain_text("frame 0")
    page.keyboard.press("ArrowRight")
    wait_until(page, "!video.seeking && video.currentTime > 1")
    page.keyboard.press("]")
    expect(page.locator("#speed")).to_have_text("1.5×")
    page.keyboard.press("Space")
    before = page.evaluate("() => document.getElementById('video').currentTime")
    wait_until(page, f"video.currentTime < {before}")  # from the end to the start
    wait_until(page, PLAYS)
    assert page.evaluate("() => document.getElementById('video').playbackRate") == 1.5
    for _ in range(9):
        page.keyboard.press("[")
    expect(page.locator("#speed")).to_have_text("0.25×")


def test_keys_in_the_text(open_page: Open) -> None:
    page = open_page("anna")
    wait_until(page, PLAYS)
    page.keyboard.press("Enter")
    page.keyboard.press("Control+Space")
    wait_until(page, "video.paused")
    page.evaluate("() => { document.getElementById('video').currentTime = 0.55; }")
    wait_for_frame(page, 5)
    page.keyboard.press("Alt+.")
    wait_for_frame(page, 6)
    page.keyboard.press("Alt+2")
    assert page.locator("input[name=rating]:checked").input_value() == "2"
    page.keyboard.press("Control+a")
    page.keyboard.type("s u o 5 ?")
    expect(page.locator("#caption")).to_have_value("s u o 5 ?")
    page.keyboard.press("Control+z")
    page.keyboard.press("Escape")
    page.keyboard.press("o")
    expect(page.locator("#caption")).to_have_value(ORIGINAL)
    page.keyboard.press("?")
    expect(page.locator("#help")).to_be_visible()


def test_skip_and_undo(open_page: Open, project: AnnotationProject) -> None:
    page = open_page("anna")
    expect(page.locator("#about")).to_contain_text("v0")
    write(page, "half a caption")
    page.keyboard.press("Escape")
    page.keyboard.press("s")
    page.keyboard.type("too dark")
    page.keyboard.press("Enter")
    expect(page.locator("#about")).to_contain_text("v1")
    assert count_progress(project).skipped == 1
    page.keyboard.press("u")
    expect(page.locator("#about")).to_contain_text("v0")
    expect(page.locator("#caption")).to_have_value("half a caption")
    page.keyboard.press("u")
    expect(page.locator("#error")).to_have_text("Nothing to undo")
    page.keyboard.press("2")
    page.keyboard.press("Control+Enter")
    expect(page.locator("#about")).to_contain_text("v1")
    assert refined(project) == {"v0": "half a caption"}


def test_two_people_at_once(open_page: Open, project: AnnotationProject) -> None:
    pages = {name: open_page(name) for name in ("anna", "ben")}
    expect(pages["anna"].locator("#about")).to_contain_text("v0")
    expect(pages["ben"].locator("#about")).to_contain_text("v1")
    for name, page in pages.items():
        write(page, f"by {name}")
    for page in pages.values():
        expect(page.locator("#saved")).to_have_text("Saved")
        page.keyboard.press("Alt+3")
        page.keyboard.press("Control+Enter")
    third = {name: page.locator("#about", has_text="v2") for name, page in pages.items()}
    for name, page in pages.items():
        expect(third[name].or_(page.locator("#empty h2", has_text="Nothing to annotate")).first).to_be_visible()
    (idle,) = (page for name, page in pages.items() if not third[name].is_visible())  # who ends first gets the third
    expect(idle.locator("#empty h2")).to_have_text("Nothing to annotate")
    assert refined(project) == {"v0": "by anna", "v1": "by ben"}
    idle.keyboard.press("p")
    expect(idle.locator("#counts")).to_contain_text("2 of 3 videos done, 1 begun")
    expect(idle.locator("#people tr")).to_have_count(2)
    assert idle.locator("#people tr").first.locator("td").all_text_contents()[:2] == ["anna", "1"]
    expect(idle.locator("#agreement")).to_have_text("No video has two annotations yet.")


def test_a_second_person_reviews(open_page: Open, project: AnnotationProject, annotate) -> None:
    annotate("anna", "A boot.", rating=2)
    annotate("anna", "A bout.", rating=3)
    page = open_page("ben")
    expect(page.locator("#about")).to_contain_text("v2")
    page.keyboard.press("r")
    expect(page.locator("#note")).to_have_text("Annotated by anna")
    assert page.locator("input[name=rating]:checked").input_value() == "2"
    write(page, "A boat.")
    page.keyboard.press("Control+Enter")
    expect(page.locator("#about")).to_contain_text("v1")
    assert refined(project)["v0"] == "A boat."
    page.keyboard.press("s")
    page.keyboard.type("a boat, surely")
    page.keyboard.press("Enter")
    expect(page.locator("#empty h2")).to_have_text("Nothing to review")
    anna = open_page("anna")
    expect(anna.locator("#note")).to_have_text("Returned: a boat, surely")
    expect(anna.locator("#caption")).to_have_value("A bout.")


def test_a_name_is_needed_and_remembered(browser: Browser, address: str) -> None:
    with browser.new_context() as context:
        page = context.new_page()
        page.goto(address)
        expect(page.locator("#name")).to_be_visible()
        page.keyboard.press("Escape")
        expect(page.locator("#name")).to_be_visible()
        page.locator("#person").fill("anna")
        page.keyboard.press("Enter")
        expect(page.locator("#about")).to_contain_text("v0")
        page.reload()
        expect(page.locator("#show-name")).to_have_text("anna")
        expect(page.locator("#about")).to_contain_text("v0")


def test_another_tab_takes_over(open_page: Open) -> None:
    page = open_page("anna")
    expect(page.locator("#about")).to_contain_text("v0")
    other = open_page("anna", context=page.context)
    expect(other.locator("#about")).to_contain_text("v0")
    write(page, "in the first tab")
    expect(page.locator("#error")).to_contain_text("opened in another tab")
    expect(page.locator("#saved")).to_have_text("Not saved")


@contextmanager
def server(data: Path, port: int) -> Iterator[subprocess.Popen[str]]:
    """`pe annotate` in a process of its own, that answers."""
    command = [sys.executable, "-m", "perception_encoder", "annotate", str(data), "--double", "0", "--port", str(port)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE) as process:
        try:
            assert "videos of" in process.stdout.readline()
            yield process
        finally:
            process.kill()


def test_a_killed_server_loses_nothing(open_page: Open, data: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    base = f"http://127.0.0.1:{port}"
    with server(data, port) as process:
        page = open_page("anna", base)
        write(page, "saved on the server")
        page.keyboard.press("Alt+2")
        expect(page.locator("#saved")).to_have_text("Saved")
        page.keyboard.type(", typed when it was killed")
        os.kill(process.pid, signal.SIGKILL)
        process.wait(20)
    page.keyboard.type(", typed afterwards")
    expect(page.locator("#saved")).to_contain_text("Not saved: the server does not answer")
    page.keyboard.press("Control+Enter")
    expect(page.locator("#error")).to_contain_text("does not answer")
    whole = "saved on the server, typed when it was killed, typed afterwards"
    with server(data, port) as process:  # what the page has arrives by itself
        expect(page.locator("#saved")).to_have_text("Saved", timeout=15_000)
        other = open_page("anna", base)  # in another browser
        expect(other.locator("#caption")).to_have_value(whole)
        assert other.locator("input[name=rating]:checked").input_value() == "2"
        other.keyboard.press("Enter")
        other.keyboard.press("Control+End")
        other.keyboard.type(" and more")
        os.kill(process.pid, signal.SIGKILL)  # perhaps before it was saved
        process.wait(20)
    other.keyboard.type(", and the last word")
    expect(other.locator("#saved")).to_contain_text("does not answer")
    context = other.context
    other.close()  # so that only the browser's storage has it
    with server(data, port) as process:
        other = open_page("anna", base, context)
        expect(other.locator("#note")).to_contain_text("text that had not been saved")
        expect(other.locator("#caption")).to_have_value(f"{whole} and more, and the last word")
        other.keyboard.press("Control+Enter")
        expect(other.locator("#about")).to_contain_text("v1")
        assert httpx.get(f"{base}/api/progress").json()["done"] == 1
    assert refined(AnnotationProject(data)) == {"v0": f"{whole} and more, and the last word"}


@contextmanager
def shown(browser: Browser, project: AnnotationProject) -> Iterator[tuple[Page, str]]:
    """A page that has not been opened, and its address."""
    project.update()
    with served(create_annotation_page(project)) as address, browser.new_context() as context:
        yield context.new_page(), f"{address}/?as=anna"


def test_several_minutes_play_without_a_stall(browser: Browser, tmp_path: Path) -> None:
    film = long_clip()
    members = [("film.mp4", film), ("film.json", json_bytes(fields("A film.", video_duration_in_s=300.0)))]
    write_members(tmp_path / "train" / "0.tar", members)
    with shown(browser, AnnotationProject(tmp_path)) as (page, address):
        ranges: list[str] = []
        page.on("response", lambda answer: ranges.append(answer.headers.get("content-range", "")))
        page.goto(address)
        wait_until(page, PLAYS)
        for second in (290, 150, 299):
            page.evaluate(f"() => {{ document.getElementById('video').currentTime = {second}; }}")
            wait_until(page, f"!video.seeking && (video.currentTime > {second}.05 || video.currentTime < 100)")
        wait_until(page, "video.currentTime < 100")  # the loop
        wait_until(page, PLAYS)
        starts = {int(item.split()[1].split("-")[0]) for item in ranges if item.endswith(f"/{len(film)}")}
        assert any(0.4 * len(film) < start < 0.99 * len(film) for start in starts)  # parts, not all that is before them


def test_frames_are_not_numbered_without_a_frame_rate(browser: Browser, tmp_path: Path) -> None:
    data = write_dataset(tmp_path, {"train": [[("a", fields("A film.", fps=None, num_frames=None))]]})
    with shown(browser, AnnotationProject(data)) as (page, address):
        page.goto(address)
        wait_until(page, PLAYS)
        expect(page.locator("#time")).to_have_text(re.compile(r"^\d+\.\d+ / 2\.00 s$"))


def test_a_video_that_the_browser_cannot_play_is_said(browser: Browser, tmp_path: Path) -> None:
    members = [("a.mp4", b"no video at all" * 100), ("a.json", json_bytes(fields("A film.")))]
    write_members(tmp_path / "train" / "0.tar", members)
    with shown(browser, AnnotationProject(tmp_path)) as (page, address):
        page.goto(address)
        expect(page.locator("#problem")).to_be_visible()


def opening_seconds(browser: Browser, data: Path, store: Path) -> float:
    """The shortest of five times in which the page of a known project opens and shows a frame of its first video."""
    AnnotationProject(data, store).update()
    project, times = AnnotationProject(data, store), []
    with served(create_annotation_page(project)) as address, browser.new_context() as context:
        page = context.new_page()
        for number in range(6):
            start = time.monotonic()
            page.goto(f"{address}/?as=anna{number if number else ''}")
            expect(page.locator("#about")).to_contain_text("train", timeout=20_000)
            wait_until(page, "video.readyState >= 2")
            times.append(time.monotonic() - start)
    return min(times[1:])  # the browser itself starts slowly


def test_ten_thousand_videos_open_in_under_a_second(browser: Browser, many_videos: Path, tmp_path: Path) -> None:
    seconds = opening_seconds(browser, many_videos, tmp_path / "many.sqlite")
    few = small_dataset(tmp_path / "few", 10)
    assert seconds < 1 or seconds < 1.5 * opening_seconds(browser, few, tmp_path / "few.sqlite")  # if it is busy
