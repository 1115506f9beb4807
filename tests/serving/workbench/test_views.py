"""Each view of the workbench in a browser, on a real sweep and the real service."""

import csv
import io
import json
import math
import re
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from bae_ray.training.results import results
from tests.serving.command import Command
from tests.serving.support import KEY
from tests.serving.workbench.browsing import Browser, comes
from tests.serving.workbench.conftest import HOSTILE, MODEL, Registry

TEXT = "w1 w2 w3 w4 w5 w6 w7 nowhere"

WRITTEN = "bae_ray_written_tokens_total"


def written(url: str) -> float:
    lines = httpx.get(f"{url}/metrics", timeout=30).text.splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(WRITTEN))


def numbers_of(page: Any, selector: str) -> list[str]:
    return [re.split(r"[*!#~?\n]", text.strip())[0] for text in page.locator(selector).all_inner_texts()]


def downloaded(page: Any, button: Any) -> str:
    with page.expect_download() as waited:
        button.click()
    return Path(waited.value.path()).read_bytes().decode()


def test_the_map_shows_every_measure_and_what_to_be_careful_with(browser: Browser, workbench_registry: Registry):
    table = results(workbench_registry.folder)
    with browser.view("/") as page:
        page.wait_for_selector("table.heat")
        variants = page.get_by_label("Runs with").locator("option").all_inner_texts()
        assert any("entropy_weight=0.0001" in name for name in variants)
        chosen = next(name for name in variants if "entropy_weight=0.0001" in name and "position" not in name)
        page.get_by_label("Runs with").select_option(chosen)
        page.get_by_label("Measure").select_option("fvu_val")
        comes(page, "document.querySelector('caption').textContent.startsWith('FVU on held-out')")
        runs = table[table["training.entropy_weight"] == 1e-4]
        cells = runs.groupby(["layer", "position"])["fvu_val"].mean().reset_index()
        shown = {
            tuple(re.findall(r"Layer (\w+), position (\w+)", cell.get_attribute("aria-label"))[0]): cell.inner_text()
            for cell in page.locator("table.heat td a").all()
        }
        for cell in cells.to_dict("records"):
            at = str(cell["layer"]), str(cell["position"])
            if at in shown:
                assert shown[at].startswith(f"{cell['fvu_val']:.2f}")
        assert len(shown) >= 4
        assert "did not converge" in page.locator(".caveats").inner_text()
        assert "measure=fvu_val" in page.url
        page.reload()
        page.wait_for_selector("table.heat")
        assert page.get_by_label("Measure").input_value() == "fvu_val", "an address is a view"
        page.get_by_text("runs that are not").click()
        listed = page.locator("details li").all_inner_texts()
        assert len(listed) == 1
        assert workbench_registry.failed in listed[0]
        assert "Diverg" in listed[0] or "finite" in listed[0], listed


def test_bits_stand_beside_their_fvu(browser: Browser, workbench_registry: Registry):
    with browser.view("/?measure=entropy_bits", width=400) as page:
        page.wait_for_selector("table.heat small")
        for text in page.locator("table.heat td a").all_inner_texts():
            assert re.search(r"\d\.\d\d / \d\.\d\d", text), text


def test_bits_at_one_fvu_and_as_files(browser: Browser, workbench: Command):
    asked = httpx.get(f"{workbench.url}/v1/sweep/matched?fvu=0.5", headers={"authorization": f"Bearer {KEY}"}).json()
    with browser.view("/") as page:
        page.wait_for_selector("table.heat")
        page.get_by_label("At held-out FVU").fill("0.5")
        page.get_by_label("At held-out FVU").press("Enter")
        comes(page, "document.querySelector('caption')?.textContent.includes('at held-out FVU 0.5')")
        shown = page.locator("table.heat td a").count()
        saved = downloaded(page, page.get_by_role("button", name="CSV").first)
        rows = [*csv.DictReader(io.StringIO(saved))]
        assert len(rows) == shown
        known = {(row["layer"], row["position"]): row["value"] for row in rows}
        columns = asked["columns"]
        for layer, position, bits, reason in zip(
            *(columns[c] for c in ("layer", "position", "bits", "reason")), strict=True
        ):
            if (str(layer), str(position)) in known:
                value = known[str(layer), str(position)]
                assert (float(value) == pytest.approx(bits)) if value else reason
        whole = json.loads(downloaded(page, page.get_by_role("button", name="JSON").last))
        assert len(whole) == 10, "nine runs and the one that failed"


def test_a_cell_by_keyboard(browser: Browser):
    with browser.view("/", scheme="dark") as page:
        page.wait_for_selector("table.heat")
        page.locator("table.heat td a").first.focus()
        page.keyboard.press("Enter")
        page.wait_for_selector("h1:has-text('Layer 1, position 2')")
        page.wait_for_selector("figure:has-text('Training: Loss') canvas")
        page.wait_for_selector("figure:has-text('Firing rates') canvas")
        page.wait_for_selector("figure:has-text('Rate and distortion') canvas")
        curves = [*csv.DictReader(io.StringIO(downloaded(page, page.get_by_role("button", name="CSV").nth(1))))]
        assert {row["epoch"] for row in curves} == {*map(str, range(1, 7))}
        page.locator("tbody th a").first.click()
        page.wait_for_selector("h1:has-text('Encoder')")


def test_hostile_names_are_text_and_found(browser: Browser, workbench_registry: Registry):
    with browser.view(f"/encoder/{workbench_registry.named}?sort=score") as page:
        page.wait_for_selector("td.words")
        page.get_by_label("Words or number").fill("WORDS onerror")
        page.get_by_role("button", name="Search").click()
        comes(page, "document.querySelector('[role=status]')?.textContent.includes('match')")
        names = {text.strip() for text in page.locator("td.words").all_inner_texts()}
        assert names == {HOSTILE}
        assert "The judge" in page.locator("section").inner_text()
        assert MODEL.replace("/", "") in page.locator("main").inner_text()
        assert page.locator("main img, main b").count() == 0
        page.locator("tbody th a").first.click()
        page.wait_for_selector("h1:has-text('Feature')")


@pytest.mark.parametrize("width", [400, 2000])
def test_a_feature(browser: Browser, workbench_registry: Registry, width: int):
    with browser.view(f"/encoder/{workbench_registry.named}/feature/{workbench_registry.feature}", width) as page:
        page.wait_for_selector(f"h2:has-text({json.dumps(HOSTILE)})")
        told = page.locator("main").inner_text()
        assert "the same name scores" in told
        assert "balanced accuracy" in told
        assert page.locator(".tokens mark").count() > 0
        assert page.locator("figure:has-text('Its shape') canvas").count() == 1
        page.locator(".inline a").first.click()
        comes(page, f"!location.hash.endsWith('/{workbench_registry.feature}')")
        page.wait_for_selector("h2:has-text('Features with a similar direction')")


def is_on(service: Command, run: str, feature: dict[str, Any]) -> bool:
    """By the firing rate p: of log2 (1 - p), where the bit is 1, and log2 p the magnitude is the nearer."""
    place = f"{service.url}/v1/encoders/{run}/features/{feature['index']}"
    rate = httpx.get(place, headers={"authorization": f"Bearer {KEY}"}).json()["firing_rate"]
    one, zero = (math.log2(share + 1e-6) for share in (1 - rate, rate))
    return abs(feature["magnitude"] - one) < abs(feature["magnitude"] - zero)


def test_a_text_token_by_token(browser: Browser, workbench: Command, workbench_registry: Registry):
    place = f"{workbench.url}/v1/encoders/{workbench_registry.named}/texts/encode?fit=true&top_k=20"
    asked = httpx.post(place, json={"texts": [TEXT]}, headers={"authorization": f"Bearer {KEY}"}, timeout=120)
    tokens = asked.json()["texts"][0]["tokens"]
    assert all(token["bits"] > 0 and token["error"] >= 0 for token in tokens)
    with browser.view(f"/encoder/{workbench_registry.named}/try") as page:
        page.get_by_label("Text").fill(TEXT)
        page.get_by_role("button", name="Show its features").click()
        buttons = page.locator(".tokens button")
        buttons.first.wait_for()
        assert buttons.all_inner_texts() == [token["text"] for token in tokens]
        assert "<unk>" in buttons.all_inner_texts(), "which is no element"
        buttons.nth(3).click()
        comes(page, "['on', 'off'].includes(document.querySelector('tbody td').textContent)")
        states = {
            feature["index"]: is_on(workbench, workbench_registry.named, feature) for feature in tokens[3]["features"]
        }
        in_order = [index for on in (True, False) for index, found in states.items() if found == on]
        assert page.locator("tbody tr th").all_inner_texts() == [*map(str, in_order)]
        told_on = page.locator("tbody tr td:nth-child(2)").all_inner_texts()
        assert told_on == ["on" if states[index] else "off" for index in in_order]
        told = page.locator("main").inner_text()
        assert f"Its code takes {tokens[3]['bits']:.1f} bits" in told
        assert f"Reconstruction error {tokens[3]['error']:.3f}" in told
        page.get_by_label("Colour by").select_option("bits")
        comes(page, "location.hash.includes('colour=bits')")
        said = buttons.nth(3).get_attribute("aria-label")
        assert float(said.rpartition(": ")[2]) == pytest.approx(tokens[3]["bits"], rel=0.01)
        page.get_by_role("button", name="colour by it").first.click()
        comes(page, "location.hash.includes('feature')")
        assert states[in_order[0]]
        assert buttons.nth(3).evaluate("token => getComputedStyle(token).backgroundColor") == "rgb(196, 84, 0)"
        page.get_by_role("button", name="colour by it").last.click()
        comes(page, f"location.hash.includes('feature%3A{in_order[-1]}')")
        assert not states[in_order[-1]]
        assert buttons.nth(3).get_attribute("aria-label").endswith(": off")
        page.reload()
        buttons.first.wait_for()
        saved = [*csv.DictReader(io.StringIO(downloaded(page, page.get_by_role("button", name="CSV"))))]
        assert {row["token"] for row in saved} == {*map(str, range(len(tokens)))}


def test_a_text_opens_where_the_encoder_was_trained(browser: Browser, workbench_registry: Registry):
    table = results(workbench_registry.folder)
    run = table[table["position"].astype(str) == "2"]["run"].iloc[0]
    with browser.view(f"/encoder/{run}/try?text=w1+w2+w3+w4") as page:
        page.wait_for_selector("h2:has-text('Position 2')")
        assert "where the encoder was trained" in page.locator("h2").inner_text()
        assert page.locator(".tokens .trained").inner_text() == page.locator("h2 code").inner_text()
        assert "did not converge" in page.locator(".caveats").inner_text()


def test_steering_side_by_side_and_the_same_by_curl_and_python(
    browser: Browser, workbench: Command, workbench_registry: Registry, monkeypatch: pytest.MonkeyPatch
):
    run, feature = workbench_registry.named, workbench_registry.feature
    address = f"/encoder/{run}/steer?text=w1+w2+%27w3&new=8&seed=3&f={feature}:add:40&f=1:off"
    with browser.view(address) as page:
        assert page.get_by_label("Text to go on from").input_value() == "w1 w2 'w3"
        page.get_by_role("button", name="Write").click()
        page.wait_for_selector("text=Both are written")
        written = [text.removeprefix("w1 w2 'w3") for text in page.locator(".written").all_inner_texts()]
        assert written[0] != written[1]
        page.get_by_text("curl", exact=True).click()
        page.get_by_text("Python", exact=True).click()
        curl, python = page.locator("pre").all_inner_texts()
        saved = json.loads(downloaded(page, page.get_by_role("button", name="JSON")))
        assert [saved[side]["text"].split() for side in ("steered", "plain")] == [text.split() for text in written]
    monkeypatch.setenv("KEY", KEY)
    events = subprocess.run(["bash", "-c", curl], capture_output=True, text=True, check=True).stdout
    end = json.loads(events.split("event: end")[1].split("data: ")[1].splitlines()[0])
    assert end["steered"] == saved["steered"]
    assert end["plain"] == saved["plain"]
    found: dict[str, Any] = {}
    exec(python, found)
    found["client"].close()
    assert found["both"].steered.text == saved["steered"]["text"]
    assert found["both"].plain.text == saved["plain"]["text"]


def test_all_encoders_are_listed(browser: Browser, workbench_registry: Registry):
    with browser.view("/encoders", width=400) as page:
        page.wait_for_selector("tbody tr")
        listed = page.locator("tbody th").all_inner_texts()
        assert listed == sorted(results(workbench_registry.folder)["run"])


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
