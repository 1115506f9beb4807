"""Headless Chromium at the workbench: what it logs, and what it asks for, is checked at the end of each visit."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe

from tests.browser import find_browser
from tests.serving.support import until

EXPECTED = "Failed to load resource"
"""What Chromium says of every answer that is an error, or does not come, as in tests of errors."""


def comes(page: Any, expression: str) -> None:
    """Wait until an expression is true. The page's policy lets Playwright's own way of waiting not be."""
    until(lambda: page.evaluate(expression))


class Browser:
    """Pages of the workbench."""

    def __init__(self, chromium: Any, url: str, key: str) -> None:
        self._chromium, self.url, self._key = chromium, url, key

    @contextmanager
    def view(self, address: str, width: int = 1200, scheme: str = "light", key: str | None = None) -> Iterator[Any]:
        """A view, by what is behind the #; `key` in place of the service's, empty: none.

        At the end: nothing was logged, nothing asked of another host, nothing is wider than the window, and axe finds
        nothing serious.
        """
        context = self._chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        context.set_default_timeout(60_000)
        if given := self._key if key is None else key:
            context.add_init_script(f"if (!sessionStorage.length) sessionStorage.setItem('bae_ray key', '{given}')")
        page: Any = context.new_page()
        said, asked = [], []
        page.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(f"{self.url}/workbench#{address}")
        page.wait_for_selector("body[data-ready=yes]")
        yield page
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        found = Axe().run(page).response["violations"]
        serious = [one for one in found if one["impact"] in ("serious", "critical")]
        assert not serious, [(one["id"], [node["html"] for node in one["nodes"]]) for one in serious]
        assert [line for line in said if EXPECTED not in line] == [], said
        assert {url for url in asked if not url.startswith((self.url, "data:", "blob:"))} == set()
        context.close()


@contextmanager
def browsing(url: str, key: str) -> Iterator[Browser]:
    """A browser for several visits; skips the test where there is none."""
    from playwright.sync_api import sync_playwright

    path = find_browser()
    if path is None:
        pytest.skip("no Chromium is installed")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield Browser(chromium, url, key)
        chromium.close()
