"""A page in headless Chromium, for tests of the HTML that the project writes."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def find_browser() -> str | None:
    """The path of a Chromium."""
    return next((path for name in BROWSERS if (path := shutil.which(name))), None)


@contextmanager
def chromium() -> Iterator[Any]:
    """An empty page. Skips the test where there is no browser."""
    from playwright.sync_api import sync_playwright

    browser_path = find_browser()
    if browser_path is None:
        pytest.skip(f"none of {', '.join(BROWSERS)} is installed")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        yield browser.new_page()
        browser.close()


@contextmanager
def opened(place: Path | str) -> Iterator[Any]:
    """The page of a file or an address, once it is ready; what it logs is in `said`, what it asks for in `asked`.

    Skips the test where there is no browser.
    """
    with chromium() as page:
        page.said, page.asked = [], []
        page.on("console", lambda message: page.said.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: page.said.append(str(error)))
        page.on("request", lambda request: page.asked.append(request.url))
        page.goto(place if isinstance(place, str) else place.as_uri())
        page.wait_for_selector("body[data-ready=yes]")
        yield page
