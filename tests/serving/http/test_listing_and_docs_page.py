"""The list of encoders page by page, and the page at /docs in a browser."""

from itertools import chain

import httpx
import pytest

from bae_ray.client import Client
from tests.browser import opened
from tests.serving.http.test_problems import problem
from tests.serving.support import NARROW_KEY, Served


def pages(http: httpx.Client, limit: int) -> list[list[str]]:
    """The ids of every page, going by `next`; the Link has to say the same."""
    found, address = [], f"/v1/encoders?limit={limit}"
    while True:
        response = http.get(address)
        page = response.json()
        found.append([encoder["id"] for encoder in page["encoders"]])
        if page["next"] is None:
            assert "link" not in response.headers
            return found
        assert response.links["next"]["url"] == f"/v1/encoders?limit={limit}&after={page['next']}"
        address = response.links["next"]["url"]


def test_pages_hold_every_encoder_once_in_order(http: httpx.Client):
    whole = [encoder["id"] for encoder in http.get("/v1/encoders").json()["encoders"]]
    assert whole == sorted(whole)
    assert {"bae", "cut", "demo", "relu", "run"} <= {*whole}
    for limit in range(1, len(whole) + 2):
        found = pages(http, limit)
        assert [*chain(*found)] == whole
        assert all(len(page) == limit for page in found[:-1])
        assert 0 < len(found[-1]) <= limit


def test_pages_are_of_what_the_key_is_for(served: Served):
    with httpx.Client(base_url=served.url, headers={"authorization": f"Bearer {NARROW_KEY}"}) as narrow:
        assert pages(narrow, 1) == [["relu"], ["run"]]


def test_where_a_page_begins_need_not_be_an_encoder(http: httpx.Client):
    listed = http.get("/v1/encoders", params={"after": "rb"}).json()["encoders"]
    assert [encoder["id"] for encoder in listed][:2] == ["relu", "run"]
    assert http.get("/v1/encoders", params={"after": "zzz"}).json() == {"encoders": [], "next": None}
    for limit in (0, -1, 1001, "x"):
        problem(http.get("/v1/encoders", params={"limit": limit}), 422, "invalid")


def test_the_client_lists_all_pages(client: Client, http: httpx.Client, monkeypatch: pytest.MonkeyPatch):
    from bae_ray.client import endpoints

    whole = [encoder["id"] for encoder in http.get("/v1/encoders").json()["encoders"]]
    asked = []

    def call(method: str, path: str, params: dict):
        asked.append(params["after"])
        return real(method, path, {**params, "limit": 2})

    real = endpoints.Call
    monkeypatch.setattr(endpoints, "Call", call)
    assert client.encoders()["id"].tolist() == whole
    assert asked == [None, *whole[1:-1:2]]


def test_the_docs_load_nothing_from_elsewhere(served: Served):
    with opened(f"{served.url}/docs") as page:
        assert page.locator(".opblock").count() == 17, "an entry for each route of the description"
        assert {url for url in page.asked if not url.startswith((served.url, "data:"))} == set()
        assert page.said == []
        outcome = page.evaluate("fetch('http://127.0.0.1:1/').then(() => 'sent', () => 'refused')")
        assert outcome == "refused"
        assert any("Content Security Policy" in line for line in page.said), page.said


def test_the_docs_files(served: Served):
    page = httpx.get(f"{served.url}/docs")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "://" not in page.text
    for name in ("swagger-ui.css", "swagger-ui-bundle.js", "docs.js"):
        assert f"docs/{name}" in page.text
        assert httpx.get(f"{served.url}/docs/{name}").status_code == 200
    for name in ("docs.html", "api.py", "..%2fapi.py", "x"):
        problem(httpx.get(f"{served.url}/docs/{name}"), 404, "not_found")


def test_without_the_option_there_is_no_workbench(http: httpx.Client):
    for path in ("/workbench", "/workbench/workbench.js"):
        assert "--workbench" in problem(http.get(path), 404, "not_found")["detail"]
