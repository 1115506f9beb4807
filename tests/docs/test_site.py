"""The documentation's site, built as `make docs` builds it: no link leads nowhere, nothing is asked of other hosts, and
the reference has every verb and option that the parsers have."""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from bae_ray.activations.config import INPUTS
from bae_ray.autoencoders.architectures import ARCHITECTURES
from bae_ray.cli.verbs import VERBS
from tests.browser import chromium
from tests.docs.code_blocks import ROOT

FOREIGN = re.compile(r"^(https?:)?//")


def build(config: Path, site: Path) -> subprocess.CompletedProcess[str]:
    """Build the site that a config describes."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "NO_MKDOCS_2_WARNING": "1"}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--config-file", config, "--site-dir", site]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("docs") / "site"
    done = build(ROOT / "mkdocs.yml", folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


class Loaded(HTMLParser):
    """What a browser would load of a page, and its ids."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.ids: set[str] = set()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if given.get("id"):
            self.ids.add(str(given["id"]))
        if tag in ("script", "img", "iframe", "embed", "source", "video", "audio", "input"):
            self.loaded += [str(given[name]) for name in ("src", "srcset", "poster") if given.get(name)]
        if tag == "link" and given.get("rel") not in ("canonical", "next", "prev", "alternate"):
            self.loaded.append(str(given["href"]))
        if tag == "object":
            self.loaded.append(str(given.get("data") or ""))


def read(page: Path) -> Loaded:
    return Loaded(page.read_text(encoding="utf-8"))


def test_no_page_loads_from_elsewhere(site: Path):
    pages = [*site.rglob("*.html")]
    assert len(pages) > 30
    for page in pages:
        text = page.read_text(encoding="utf-8")
        loaded = [*Loaded(text).loaded, *in_styles(" ".join(re.findall(r"<style.*?</style>", text, re.DOTALL)))]
        assert loaded
        for address in loaded:
            assert not FOREIGN.match(address), (page, address)
            below = site if address.startswith("/") else page.parent
            assert address.startswith("data:") or (below / address.lstrip("/")).exists()
    for sheet in site.rglob("*.css"):
        assert not [address for address in in_styles(sheet.read_text(encoding="utf-8")) if FOREIGN.match(address)]


def in_styles(text: str) -> list[str]:
    """The addresses of @import and url()."""
    found = re.findall(r"""url\(\s*["']?([^"')]+)|@import\s+["']([^"']+)""", text)
    return [one or other for one, other in found]


@pytest.mark.parametrize(
    ("page", "address"),
    [
        ('<script src="https://a.org/x.js"></script>', "https://a.org/x.js"),
        ('<link rel="stylesheet" href="//a.org/x.css">', "//a.org/x.css"),
        ('<p><img src="http://a.org/x.png"></p>', "http://a.org/x.png"),
    ],
)
def test_what_is_loaded_from_elsewhere_is_found(page: str, address: str):
    assert Loaded(page).loaded == [address]
    assert FOREIGN.match(address)
    assert in_styles(f"@import '{address}'; a {{ background: url({address}) }}") == [address, address]


def test_a_browser_asks_nobody_else(site: Path):
    """Pages and the search, in Chromium: scripts ask for what they like, and must like nothing from elsewhere."""
    handler = partial(Quiet, directory=str(site))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server, chromium() as page:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        base = f"http://127.0.0.1:{server.server_address[1]}"
        page.set_default_timeout(120_000)
        asked: list[str] = []
        failed: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.on("response", lambda response: response.status >= 400 and failed.append(response.url))
        page.on("pageerror", lambda error: failed.append(str(error)))
        for name in ("index", "bits", "reference/command-line", "reference/python", "reference/http-routes"):
            page.goto(f"{base}/{name}.html", wait_until="networkidle")
        page.goto(f"{base}/index.html?q=burstiness")  # so that the search begins when its scripts are ready for it
        page.wait_for_selector(".md-search-result__item a[href*=glossary]", state="attached")
        server.shutdown()
    assert len(asked) > 10
    assert [url for url in asked if not url.startswith((base, "data:", "blob:"))] == []
    assert failed == []


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass


def test_lists_and_tables_are_shown_as_such(site: Path):
    """The site's Markdown wants a blank line before a list, and four spaces within one; code hosts do not."""
    for page in site.rglob("*.html"):
        for paragraph in re.findall(r"<p>(.*?)</p>", page.read_text(encoding="utf-8"), re.DOTALL):
            lines = paragraph.splitlines()
            assert not [line for line in lines if re.match(r"\s*([-*] |\d+\. |\||```)", line)], page


def test_every_verb_has_its_section_with_every_option(site: Path, bae_ray):
    """The oracle is the help that the parser writes."""
    page = (site / "reference" / "command-line.html").read_text(encoding="utf-8")
    sections = dict(re.findall(r'<h2 id="bae-ray-([\w-]+)">(.*?)(?=<h2 |</article>)', page, re.DOTALL))
    assert list(sections) == [verb.replace(" ", "-") for verb in VERBS]
    for verb in VERBS:
        code, out, _ = bae_ray(*verb.split(), "--help")
        assert code == 0
        options = set(re.findall(r"^[│ ]{2,6}(--[a-z][\w.-]*)", out, re.MULTILINE))  # deeper is what is said of them
        assert options or verb == "job", "whose options are those of the job"
        shown = set(re.findall(r"<code>(--[\w.-]+)</code>", sections[verb.replace(" ", "-")]))
        assert options <= shown, verb


def test_the_options_of_every_architecture_and_input_are_there(site: Path):
    page = (site / "reference" / "configs.html").read_text(encoding="utf-8")
    sections = dict(re.findall(r'<h3 id="([\w-]+)">(.*?)(?=<h[23] |</article>)', page, re.DOTALL))
    configs = {f"{one.name}-{one.config.__name__.lower()}": one.config for one in ARCHITECTURES.values()}
    configs |= {f"{kind}-{config.__name__.lower()}": config for kind, config in INPUTS.items()}
    for name, config in configs.items():
        assert {*config.model_fields} <= set(re.findall(r"<td><code>(\w+)</code></td>", sections[name]))


def test_every_job_and_route_and_public_name_is_there(site: Path):
    import bae_ray
    import bae_ray.client

    jobs = read(site / "reference" / "jobs.html").ids
    assert {job.stem for job in (ROOT / "jobs").glob("*.py")} <= jobs
    routes = (site / "reference" / "http-routes.html").read_text(encoding="utf-8")
    for path, methods in json.loads((ROOT / "docs" / "openapi.json").read_text(encoding="utf-8"))["paths"].items():
        assert all(f"{method.upper()} {path}<" in routes for method in methods), path
    names = {
        one.rsplit(".", 1)[-1] for one in read(site / "reference" / "python.html").ids if one.startswith("bae_ray.")
    }
    public = [name for module in (bae_ray, bae_ray.client) for name in dir(module) if name[0].isupper()]
    assert {*public, "train", "train_many", "results", "load_autoencoder"} - {"TYPE_CHECKING"} <= names


def test_no_secret_is_shown(site: Path):
    """Folders are shown of what git knows: not of what scripts have written beside it."""
    shown = [str(page.relative_to(site / "repository")) for page in (site / "repository").rglob("*.html")]
    assert "deploy/kubernetes/index.html" in shown
    assert "examples/slurm.sh.html" in shown
    assert not [page for page in shown if "secrets/" in page]


def test_a_link_that_leads_nowhere_is_an_error(tmp_path: Path):
    """Of the same pages with three links more, without what is generated."""
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    hook = ROOT / "docs" / "hooks" / "repository_pages.py"
    config = f"INHERIT: {ROOT / 'mkdocs.yml'}\ndocs_dir: docs\nhooks: [{hook}]\nplugins: []\nwatch: []\n"
    (tmp_path / "mkdocs.yml").write_text(config)
    with (tmp_path / "docs" / "bits.md").open("a") as page:
        page.write("\n[one](nowhere.md) [two](trust.md#nowhere) [three](../examples/nowhere.sh) [four](../Makefile)\n")
    done = build(tmp_path / "mkdocs.yml", tmp_path / "site")
    assert done.returncode != 0
    warned = [line for line in done.stderr.splitlines() if "WARNING" in line and "reference/" not in line]
    assert len(warned) == 3
    for link in ("nowhere.md", "trust.md#nowhere", "../examples/nowhere.sh"):
        assert any(link in line and "bits.md" in line for line in warned), link


def test_readme_is_short_and_its_links_lead_somewhere():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 150
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    assert len(links) > 20
    for path, _, anchor in (link.partition("#") for link in links):
        assert (ROOT / path).exists(), path
        headings = re.findall(r"^#+ (.*)$", (ROOT / path).read_text(encoding="utf-8"), re.MULTILINE) if anchor else []
        assert not anchor or anchor in [re.sub(r"[^\w -]", "", one.lower()).replace(" ", "-") for one in headings], path
