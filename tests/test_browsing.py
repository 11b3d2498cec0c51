"""The tests' own browser."""

from __future__ import annotations

from contextlib import suppress

import pytest
from playwright.sync_api import Error

from tests.browsing import Chromium

pytestmark = pytest.mark.browser


def test_a_browser_that_crashed_is_launched_again(chromium: Chromium) -> None:
    browser = chromium.browser()
    with suppress(Error):
        browser.new_browser_cdp_session().send("Browser.crash")
    page = chromium.browser().new_page()
    page.goto("about:blank")
    page.close()
    assert not browser.is_connected()
