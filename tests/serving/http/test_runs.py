"""The routes that the workbench asks: runs, training, and features as a list."""

from pathlib import Path

import httpx
import numpy as np
import pytest
from safetensors.torch import load_file

from bae_ray.autoencoders.losses import bernoulli_entropy
from tests.serving.http.test_problems import problem
from tests.serving.support import NARROW_KEY, F, Served, make_run, until, write_cards


def test_features_in_every_order(http: httpx.Client, served: Served):
    rates = load_file(served.registry / "bae" / "model.safetensors")["prior"].double()
    for sort, values in (("rate", rates), ("bits", bernoulli_entropy(rates))):
        told = http.get("/v1/encoders/bae/features", params={"sort": sort, "limit": 1000}).json()
        assert [row["index"] for row in told["features"]] == np.argsort(-values.numpy(), kind="stable").tolist()
    assert told["n_features"] == told["found"] == F
    assert sum(told["rate_counts"]) == F
    assert len(told["rate_edges"]) == len(told["rate_counts"]) + 1
    assert told["features"][0]["firing_rate"] == pytest.approx(float(rates[told["features"][0]["index"]]))
    pages = [http.get("/v1/encoders/bae/features", params={"limit": 20, "skip": at}).json() for at in (0, 20, 40, 60)]
    assert [row["index"] for page in pages for row in page["features"]] == [*range(F)]


def test_features_by_their_names(http: httpx.Client, served: Served):
    folder = served.registry / "run"
    write_cards(folder, {"index": "3", "explanations": []})
    try:
        for search, found in (("NUMBERS", [3]), ("<b> num", [3]), ("3", [3]), ("7", [7]), ("nothing", []), (" ", None)):
            told = http.get("/v1/encoders/run/features", params={"search": search, "limit": 1000}).json()
            assert [row["index"] for row in told["features"]] == ([*range(F)] if found is None else found), search
        told = http.get("/v1/encoders/run/features", params={"sort": "score"}).json()
        first = told["features"][0]
        assert (first["index"], first["score"], first["chance"]) == (3, 0.5, 0.25)
        assert first["explanation"] == "<b>numbers</b>"
        assert told["judge"]["model"] == "judge"
        feature = http.get("/v1/encoders/run/features/3").json()
        assert feature["details"]["explanation"] == "<b>numbers</b>"
        assert feature["judge"]["balanced_accuracy"] == 0.5
    finally:
        (folder / "cards.parquet").unlink()
    assert http.get("/v1/encoders/run/features/3").json()["details"] is None


def test_files_that_are_damaged_are_told_without_paths(http: httpx.Client, served: Served, dropped: Path):
    make_run(dropped, "tiny")
    until(lambda: http.get("/v1/encoders/dropped").status_code == 200)
    (dropped / "metrics.jsonl").write_text('{"epoch": 1, broken}\n')
    told = problem(http.get("/v1/encoders/dropped/run"), 503, "encoder_broken")
    assert str(served.registry) not in told["detail"]


def test_how_an_encoder_was_trained(http: httpx.Client):
    told = http.get("/v1/encoders/run/run").json()
    assert told["result"]["entropy_bits"] == 9.5
    assert told["curves"] == {}
    assert http.get("/v1/encoders/bae/run").json() == {
        "encoder": "bae", "settings": {}, "result": {}, "fidelity": {}, "curves": {},
    }  # fmt: skip


def test_what_these_routes_refuse(http: httpx.Client, served: Served):
    problem(http.get("/v1/encoders/nobody/features"), 404, "encoder_not_found")
    problem(http.get("/v1/encoders/nobody/run"), 404, "encoder_not_found")
    problem(http.get("/v1/encoders/cut/features"), 503, "encoder_broken")
    for query in ("sort=colour", "limit=0", "limit=1001", "skip=-1", "search=" + "x" * 201, "nothing=1"):
        problem(http.get(f"/v1/encoders/bae/features?{query}"), 422, "invalid")
    for query in ("", "fvu=0", "fvu=-1", "fvu=nan", "fvu=inf", "fvu=x"):
        problem(http.get(f"/v1/sweep/matched?{query}"), 422, "invalid")
    problem(httpx.get(f"{served.url}/v1/sweep"), 401, "no_key")
    with httpx.Client(base_url=served.url, headers={"authorization": f"Bearer {NARROW_KEY}"}) as narrow:
        problem(narrow.get("/v1/encoders/bae/features"), 403, "not_allowed")
        shown = narrow.get("/v1/sweep").json()["columns"].get("run", [])
        assert {*shown} <= {"run", "relu"}, "of the others it is told nothing"


def test_a_registry_whose_runs_cannot_be_read_has_an_empty_table(http: httpx.Client):
    """The runs here are no real ones: their results lack most fields."""
    told = http.get("/v1/sweep").json()
    assert told["runs"] == 0
    assert http.get("/v1/sweep/matched", params={"fvu": 0.4}).json()["columns"] == {}


def test_texts_with_their_fit(http: httpx.Client):
    plain = http.post("/v1/encoders/run/texts/encode", json={"texts": ["w1 w2 w3"]}).json()["texts"][0]["tokens"]
    told = http.post("/v1/encoders/run/texts/encode?fit=true", json={"texts": ["w1 w2 w3"]}).json()["texts"][0][
        "tokens"
    ]
    assert [{k: v for k, v in token.items() if k not in ("error", "bits")} for token in told] == plain
    assert all(token["error"] > 0 and token["bits"] > 0 for token in told)
