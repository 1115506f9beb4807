"""The workbench when something is wrong: an encoder that goes, a text too long, two tabs, a service that is away."""

import shutil

import httpx
import pytest

from tests.serving.command import Command
from tests.serving.support import KEY, until
from tests.serving.workbench.browsing import Browser
from tests.serving.workbench.conftest import Registry

pytestmark = pytest.mark.slow


def test_an_encoder_that_goes_while_its_page_is_open(
    browser: Browser, workbench: Command, workbench_registry: Registry
):
    folder = workbench_registry.folder / "passing"
    shutil.copytree(workbench_registry.folder / workbench_registry.named, folder)
    try:
        headers = {"authorization": f"Bearer {KEY}"}
        until(lambda: httpx.get(f"{workbench.url}/v1/encoders/passing", headers=headers).status_code == 200)
        with browser.view("/encoder/passing") as page:
            page.wait_for_selector("tbody tr")
            shutil.rmtree(folder)
            until(lambda: httpx.get(f"{workbench.url}/v1/encoders/passing", headers=headers).status_code == 404)
            page.get_by_label("Largest").select_option("bits")
            page.wait_for_selector("text=It may have been removed or renamed")
            page.get_by_role("link", name="Back to the map").click()
            page.wait_for_selector("table.heat")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def test_a_text_of_100_000_characters_is_refused_in_words(browser: Browser, workbench_registry: Registry):
    with browser.view(f"/encoder/{workbench_registry.named}/try") as page:
        page.get_by_label("Text").fill("w1 w2 " * 17_000)
        page.get_by_role("button", name="Show its features").click()
        page.wait_for_selector("[role=alert]")
        assert "token" in page.locator("[role=alert]").inner_text()
        assert len(page.url) < 3000


def test_no_encoder_no_view_and_no_feature_of_that_name(browser: Browser, workbench_registry: Registry):
    for address in ("/encoder/nobody", f"/encoder/{workbench_registry.named}/feature/99999"):
        with browser.view(address) as page:
            page.wait_for_selector("[role=alert]")
    with browser.view("/nowhere/<b>") as page:
        page.wait_for_selector("text=There is no such view")
    with browser.view("/cell/99/1") as page:
        page.wait_for_selector("text=The sweep has no run of this cell")


def test_two_tabs_steer_at_once(browser: Browser, workbench_registry: Registry):
    address = f"/encoder/{workbench_registry.named}/steer?text=w1+w2&new=12&temperature=1&f=1:add:30&seed="
    with browser.view(address + "1") as one, browser.view(address + "2") as two:
        for page in (one, two):
            page.get_by_role("button", name="Write").click()
        for page in (one, two):
            page.wait_for_selector("text=Both are written")
        texts = [page.locator(".written").all_inner_texts() for page in (one, two)]
        assert texts[0] != texts[1], "each by its own seed"
        one.get_by_label("Seed").fill("2")
        one.get_by_role("button", name="Write").click()
        one.wait_for_selector("[aria-busy=false]")
        one.wait_for_selector("text=Both are written")
        assert one.locator(".written").all_inner_texts() == texts[1]


def test_a_service_that_is_away_for_a_moment(browser: Browser, workbench_registry: Registry):
    with browser.view("/") as page:
        page.wait_for_selector("table.heat")
        page.context.route("**/v1/**", lambda route: route.abort("connectionrefused"))
        page.evaluate(f"location.hash = '#/encoder/{workbench_registry.named}'")
        page.wait_for_selector("text=The service does not answer")
        page.context.unroute("**/v1/**")
        page.wait_for_selector("tbody tr")
