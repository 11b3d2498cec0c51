"""A browser for the tests of the pages, and what they look at in it."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser, Page, Playwright, expect, sync_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
WAIT = 20_000
"""Milliseconds that an expectation is waited for: two workers share two cores, and the model runs on one of them."""
QUIET = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync"]


class Chromium:
    """A browser that is launched again if it has crashed, so that one crash fails no other test."""

    def __init__(self, playwright: Playwright) -> None:
        self._type = playwright.chromium
        self._browser: Browser | None = None

    def browser(self) -> Browser:
        """Return the running browser; skips the test if none is installed."""
        if CHROMIUM is None:
            pytest.skip("no chromium: on Debian, apt-get install chromium")
        if self._browser is None or not self._browser.is_connected():
            self._browser = self._type.launch(executable_path=CHROMIUM, args=QUIET)
        return self._browser

    def close(self) -> None:
        """Close the browser, if there is one."""
        if self._browser is not None:
            self._browser.close()


@contextmanager
def running_chromium() -> Iterator[Chromium]:
    """Yield a browser that starts when it is first needed."""
    expect.set_options(timeout=WAIT)
    with sync_playwright() as playwright:
        started = Chromium(playwright)
        yield started
        started.close()


@contextmanager
def opened_page(browser: Browser, address: str, refused: str) -> Iterator[Page]:
    """Open a page; errors in its console fail the test, but for those that begin with `refused`, told on the page."""
    page = browser.new_page(viewport={"width": 1200, "height": 800})
    errors: list[str] = []
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(address)
    yield page
    page.close()
    assert [error for error in errors if not error.startswith(refused)] == []


def wait_until(page: Page, condition: str) -> None:
    """Wait for a JavaScript expression to hold (the page's own policy forbids Playwright's way, which is eval)."""
    deadline = time.monotonic() + 20
    while not page.evaluate(condition):
        assert time.monotonic() < deadline, condition
        page.wait_for_timeout(30)


def contrast(page: Page, selector: str) -> float:
    """The contrast of an element's text with what is behind it, by WCAG's formula."""
    text, ground = page.locator(selector).first.evaluate(
        """(node) => {
            const text = getComputedStyle(node).color;
            while (getComputedStyle(node).backgroundColor === "rgba(0, 0, 0, 0)") node = node.parentElement;
            return [text, getComputedStyle(node).backgroundColor];
        }"""
    )

    def luminance(colour: str) -> float:
        shares = [int(value) / 255 for value in re.findall(r"\d+", colour)[:3]]
        linear = [share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    dark, light = sorted(map(luminance, (text, ground)))
    return (light + 0.05) / (dark + 0.05)
