"""The workbench on a sweep of 5,000 runs: its first view, a redrawn map, its bytes, and what it costs the encode route.

A registry of copies of one of the demo's runs is made, a twentieth of which failed, with the table that a sweep writes.
`bae-ray serve` is started with the workbench and without, in turn; the encode route is asked on both, with the page
open on the one. A text of 64 tokens is tried on the demo's own registry.

    python benchmarks/workbench.py [--runs 5000] [--demo runs/demo/sweep]
                                   [--pictures docs/images --named runs/comsem_table/autoencoders/bae-layer-10]

`--pictures`: a folder for the docs' pictures of the views, for some of which features need names.
"""

import gzip
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import httpx
import tyro
from services import started

from bae_ray.config import content_hash
from bae_ray.files import write_text
from bae_ray.report.published_cards import read_cards
from bae_ray.training.results import outcomes, write_parquet

OUT = Path("runs/benchmarks/workbench.json")
BUNDLE = Path("bae_ray/serving/workbench")
LAYERS, POSITIONS, FAILED = 25, 20, 20
"""Cells of the large sweep; and each of so many runs has failed."""
TEXT = "The capital of France is Paris, and the Seine runs through it. " * 4
TIMES = 20


def main(
    runs: int = 5000,
    demo: Path = Path("runs/demo/sweep"),
    pictures: Path | None = None,
    named: Path | None = None,
) -> None:
    """Measure, print, and write all figures to runs/benchmarks/workbench.json."""
    found: dict[str, Any] = {"cores": os.cpu_count(), "runs": runs}
    found["bundle_gzip_bytes"] = sum(len(gzip.compress(file.read_bytes())) for file in BUNDLE.glob("workbench.*"))
    run = next(demo.glob("*/result.json")).parent
    with tempfile.TemporaryDirectory(dir=demo.parent) as name:  # links reach no other file system
        registry = Path(name) / "runs"
        one = _large(run, registry, runs)
        for _ in range(2):
            for option in ((), ("--workbench",)):
                with _served(registry, *option) as url, _opened() if option else nullcontext() as page:
                    if page is not None:
                        found.setdefault("first_view_s", []).append(_first_view(page, url))
                        found.setdefault("redrawn_ms", []).extend(_redrawn(page))
                    found.setdefault("encode_ms_with" if option else "encode_ms_without", []).extend(_encode(url, one))
    with _served(demo, "--workbench") as url, _opened() as page:
        found["try_s"] = _tried(page, url, run.name)
        if pictures is not None:
            _pictures(page, url, {"map": "/", "cell": "/cell/20/1"}, pictures)
    if named is not None and pictures is not None:
        about = f"/encoder/{named.name}"
        text = TEXT.split(". ", maxsplit=1)[0].replace(" ", "+")
        views = {
            "encoder": f"{about}?sort=score", "feature": f"{about}/feature/{_best(named)}",
            "try": f"{about}/try?text={text}", "steer": f"{about}/steer?f={_best(named)}:add:24&new=24",
        }  # fmt: skip
        with _served(named.parent, "--workbench") as url, _opened() as page:
            _pictures(page, url, views, pictures)
    found["load"] = os.getloadavg()[0]
    write_text(OUT, json.dumps(found, indent=2) + "\n")
    for name, values in found.items():
        listed = values if isinstance(values, list) else [values]
        ends = f"  ({min(listed):.4g} to {max(listed):.4g})" if len(listed) > 1 else ""
        print(f"{name:24} {statistics.median(listed):,.6g}{ends}")
    ratio = statistics.median(found["encode_ms_with"]) / statistics.median(found["encode_ms_without"])
    print(f"encode with the workbench, of without: {ratio:.3f}. All figures: {OUT}")


def _large(source: Path, registry: Path, runs: int) -> str:
    """Fill the registry with copies of a run, whose large files are links to its own. The id of a finished one."""
    run, result = (json.loads((source / name).read_text()) for name in ("run.json", "result.json"))
    first = ""
    for number in range(runs):
        seed, cell = divmod(number, LAYERS * POSITIONS)
        layer, position = divmod(cell, POSITIONS)
        config = {**run, "cell": {**run["cell"], "layer": layer, "position": position}}
        config["training"] = {**run["training"], "seed": seed}
        name = content_hash(config)
        folder = registry / name
        folder.mkdir(parents=True)
        (folder / "run.json").write_text(json.dumps(config))
        if number % FAILED == FAILED - 1:
            failure = {"error": "DivergedError", "message": "the loss is not finite", "cell": config["cell"]}
            (folder / "failure.json").write_text(json.dumps(failure))
            continue
        for file in ("config.json", "model.safetensors", "metrics.jsonl"):
            os.link(source / file, folder / file)
        changed = {"run": name, "layer": layer, "position": position, "seed": seed}
        changed |= {"entropy_bits": result["entropy_bits"] * (1 + cell / 500)}
        (folder / "result.json").write_text(json.dumps({**result, **changed}))
        first = first or name
    write_parquet(outcomes(registry), registry / "results.parquet")
    return first


def _served(registry: Path, *options: str) -> AbstractContextManager[str]:
    return started(["serve", "--registry", str(registry), *options], OUT.with_suffix(".log"))


@contextmanager
def _opened() -> Iterator[Any]:
    """A page in headless Chromium."""
    from playwright.sync_api import sync_playwright

    path = next(found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name)))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser.new_page(viewport={"width": 1200, "height": 900})
        browser.close()


def _first_view(page: Any, url: str) -> float:
    began = time.perf_counter()
    page.goto(f"{url}/workbench")
    page.wait_for_selector("table.heat td a")
    return time.perf_counter() - began


def _redrawn(page: Any) -> list[float]:
    """Milliseconds from another measure being chosen to the next frame after the map is drawn."""
    return page.evaluate(
        """async (times) => {
          const select = document.querySelector("form select");
          const found = [];
          for (let i = 0; i < times; i++) {
            const began = performance.now();
            select.value = select.options[i % 2 ? 0 : 3].value;
            select.dispatchEvent(new Event("change", { bubbles: true }));
            await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
            found.push(performance.now() - began);
          }
          return found;
        }""",
        TIMES,
    )


def _encode(url: str, encoder: str) -> list[float]:
    """Milliseconds of requests of 64 rows of the demo's width, one after the other."""
    body, found = json.dumps({"x": [[0.5] * 576] * 64}), []
    with httpx.Client(headers={"content-type": "application/json"}, timeout=60) as client:
        for number in range(220):
            began = time.perf_counter()
            client.post(f"{url}/v1/encoders/{encoder}/encode", content=body).raise_for_status()
            if number >= 20:
                found.append(1000 * (time.perf_counter() - began))
    return found


def _tried(page: Any, url: str, run: str) -> list[float]:
    """Seconds from the button to the last token of a text of 64, once the language model is there."""
    page.goto(f"{url}/workbench#/encoder/{run}/try")
    found = []
    for number in range(6):
        page.get_by_label("Text").fill(f"{number} {TEXT}")
        began = time.perf_counter()
        page.get_by_role("button", name="Show its features").click()
        page.wait_for_selector(f".tokens button:first-child:has-text('{number}')", timeout=120_000)
        if number:
            found.append(time.perf_counter() - began)
    assert 60 <= page.locator(".tokens button").count() <= 72, page.locator(".tokens button").count()
    return found


def _best(named: Path) -> int:
    """The feature of the highest score."""
    cards, _ = read_cards(named)
    return max(cards, key=lambda index: cards[index]["score"] or 0)


def _pictures(page: Any, url: str, views: Mapping[str, str], out: Path) -> None:
    """Views, by the names of their pictures, for the docs."""
    for name, address in views.items():
        page.goto("about:blank")
        page.goto(f"{url}/workbench#{address}")
        page.wait_for_selector("table, form, .tokens")
        if name == "steer":
            page.get_by_role("button", name="Write").click()
            page.wait_for_selector("text=Both are written", timeout=120_000)
        if name == "try":
            page.wait_for_selector(".tokens button", timeout=120_000)
        page.wait_for_timeout(1500)
        page.screenshot(path=out / f"workbench-{name}.png")


if __name__ == "__main__":
    tyro.cli(main)
