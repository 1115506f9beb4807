"""The workbench when something is wrong: no key, a wrong one, an encoder that goes, a text too long, a closed tab."""

import shutil
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.serving.command import Command
from tests.serving.http.test_problems import problem
from tests.serving.support import KEY, until
from tests.serving.workbench.browsing import Browser, comes
from tests.serving.workbench.conftest import Registry

WRITTEN = "bae_ray_written_tokens_total"


def written(url: str) -> float:
    lines = httpx.get(f"{url}/metrics", timeout=30).text.splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(WRITTEN))


def test_a_service_with_keys_says_how_to_give_one(browser: Browser):
    with browser.view("/", key="") as page:
        page.wait_for_selector("text=This service asks for a key")
        assert "--keys-file" in page.locator(".problem").inner_text()
        page.get_by_label("Key").fill("no such key, but long enough")
        page.get_by_role("button", name="Use this key").click()
        page.wait_for_selector("text=The service does not know this key")
        page.get_by_label("Key").fill(KEY)
        page.get_by_role("button", name="Use this key").click()
        page.wait_for_selector("table.heat")
        assert page.evaluate("Object.values(localStorage).join()") == "", "a key stays in its tab"


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_text_of_100_000_characters_is_refused_in_words(browser: Browser, workbench_registry: Registry):
    with browser.view(f"/encoder/{workbench_registry.named}/try") as page:
        page.get_by_label("Text").fill("w1 w2 " * 17_000)
        page.get_by_role("button", name="Show its features").click()
        page.wait_for_selector("[role=alert]")
        assert "token" in page.locator("[role=alert]").inner_text()
        assert len(page.url) < 3000


@pytest.mark.slow
def test_no_encoder_no_view_and_no_feature_of_that_name(browser: Browser, workbench_registry: Registry):
    for address in ("/encoder/nobody", f"/encoder/{workbench_registry.named}/feature/99999"):
        with browser.view(address) as page:
            page.wait_for_selector("[role=alert]")
    with browser.view("/nowhere/<b>") as page:
        page.wait_for_selector("text=There is no such view")
    with browser.view("/cell/99/1") as page:
        page.wait_for_selector("text=The sweep has no run of this cell")


def test_steering_stops_when_its_tab_is_closed(browser: Browser, workbench: Command, workbench_registry: Registry):
    before = written(workbench.url)
    with browser.view(f"/encoder/{workbench_registry.named}/steer?text=w1&new=56&f=1:add:1") as page:
        page.get_by_role("button", name="Write").click()
        comes(page, "document.querySelector('.written')?.textContent.length > 6")
        page.goto(f"{workbench.url}/livez")  # as closed: nothing of the page is left
        time.sleep(1)
        stopped = written(workbench.url)
        time.sleep(2)
        assert written(workbench.url) == stopped
        page.goto(f"{workbench.url}/workbench")
    assert stopped > before


@pytest.mark.slow
def test_two_tabs_steer_at_once(browser: Browser, workbench_registry: Registry):
    address = f"/encoder/{workbench_registry.named}/steer?text=w1+w2&new=12&f=1:add:30&seed="
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


@pytest.mark.slow
def test_a_service_that_is_away_for_a_moment(browser: Browser, workbench_registry: Registry):
    with browser.view("/") as page:
        page.wait_for_selector("table.heat")
        page.context.route("**/v1/**", lambda route: route.abort("connectionrefused"))
        page.evaluate(f"location.hash = '#/encoder/{workbench_registry.named}'")
        page.wait_for_selector("text=The service does not answer")
        page.context.unroute("**/v1/**")
        page.wait_for_selector("tbody tr")


def test_without_the_option_there_is_no_workbench(served: object, http: httpx.Client):
    for path in ("/workbench", "/workbench/workbench.js"):
        assert "--workbench" in problem(http.get(path), 404, "not_found")["detail"]


def test_only_its_own_files_are_served(workbench: Command):
    with ThreadPoolExecutor(2) as pool:
        names = ("index.html", "..%2fconfig.py", "x", "workbench.js.map")
        for answer in pool.map(lambda name: httpx.get(f"{workbench.url}/workbench/{name}"), names):
            assert answer.status_code == 404
    page = httpx.get(f"{workbench.url}/workbench")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "://" not in page.text
    assert httpx.get(f"{workbench.url}/workbench/", follow_redirects=True).text == page.text
