"""/metrics with several replicas of everything: exact counts, loads and evictions, restarts."""

import json
import os
import re
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
import torch
from prometheus_client.parser import text_string_to_metric_families

from bae_ray.serving.config import EncodersConfig, GatewayConfig, ServiceConfig, TextsConfig
from bae_ray.serving.monitoring.counts import Loads, Metrics, gpu_memory, merged
from bae_ray.serving.monitoring.scrape import States, _states
from tests.serving.support import KEY, LIMITS, D, Served, make_encoder, make_run, replicas, until

DOCS = Path(__file__).parents[3] / "docs" / "http-api.md"
HEADERS = {"authorization": f"Bearer {KEY}"}
BODY = {"x": [[0.5] * D]}


@pytest.fixture(scope="module")
def pair(served: Served, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The service once more, with two replicas each of the gateway and of encoders that keep one encoder in memory."""
    from ray import serve

    from bae_ray.serving.app import build

    folder = tmp_path_factory.mktemp("pair")
    for name in ("one", "two"):
        make_encoder(folder / name)
    make_run(folder / "run", "tiny")
    config = ServiceConfig(
        registry=folder,
        limits=LIMITS,
        gateway=GatewayConfig(num_cpus=0, min_replicas=2, max_replicas=2),
        encoders=EncodersConfig(num_cpus=0, min_replicas=2, max_replicas=2, encoders_per_replica=1),
        texts=TextsConfig(num_cpus=0, models={"tiny": str(tiny_model)}),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BAE_RAY_API_KEYS", KEY)
        serve.run(build(config), name="pair", route_prefix="/pair")
    yield Served(f"{served.url}/pair", folder, config)
    serve.delete("pair")


@pytest.fixture
def http(pair: Served) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=pair.url, headers=HEADERS, timeout=60) as client:
        yield client


def series(http: httpx.Client, name: str, **labels: str) -> dict[str, float]:
    """The values of a series with these labels, by replica."""
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(http.get("/metrics").text):
        for sample in family.samples:
            if sample.name == name and labels.items() <= sample.labels.items():
                replica = sample.labels.get("replica", "")
                found[replica] = found.get(replica, 0) + sample.value
    return found


def total(http: httpx.Client, name: str, **labels: str) -> float:
    return sum(series(http, name, **labels).values())


def test_every_request_is_counted_once_whichever_gateway_answers(http: httpx.Client, pair: Served):
    route = "/v1/encoders/{encoder_id}/encode"
    before = total(http, "bae_ray_requests_total", route=route)

    def ask(n: int) -> int:
        name = ("one", "two", "nobody")[n % 3]
        body = BODY if n % 4 else {"x": [[0.5]]}
        return httpx.post(f"{pair.url}/v1/encoders/{name}/encode", json=body, headers=HEADERS, timeout=60).status_code

    with ThreadPoolExecutor(12) as threads:
        statuses = list(threads.map(ask, range(96)))
    assert {status: statuses.count(status) for status in {*statuses}} == {200: 48, 422: 16, 404: 32}
    until(lambda: total(http, "bae_ray_requests_total", route=route) == before + 96, 10)
    for _ in range(3):  # any page, from either of them
        counts = series(http, "bae_ray_requests_total", route=route)
        assert (len(counts), sum(counts.values())) == (2, before + 96)
        assert min(counts.values()) > 0, "both gateways have answered"
    for name in ("one", "two"):
        assert total(http, "bae_ray_requests_total", encoder=name, status="200") == 24
        assert total(http, "bae_ray_errors_total", encoder=name, code="wrong_width") == 8
    assert total(http, "bae_ray_errors_total", encoder="", code="encoder_not_found") == 32
    assert total(http, "bae_ray_requests_total", encoder="nobody") == 0, "series are of the registry's ids alone"
    assert total(http, "bae_ray_batch_rows_sum") == 48


def test_loads_and_evictions_of_encoders(http: httpx.Client):
    """A replica keeps one encoder: every change of what it is asked for is a load, and all but one an eviction."""
    for name in ("one", "two", "one"):
        assert http.post(f"/v1/encoders/{name}/encode", json=BODY).status_code == 200
    loads = series(http, "bae_ray_encoder_loads_total", result="loaded")
    evictions = series(http, "bae_ray_encoder_evictions_total")
    loaded = series(http, "bae_ray_loaded_encoders")
    assert sum(loads.values()) >= 2
    assert len(loaded) == 2, "both replicas of the encoders"
    for replica, kept in loaded.items():
        assert kept == loads.get(replica, 0) - evictions.get(replica, 0) <= 1


def test_an_encoder_that_is_gone_has_no_series(http: httpx.Client, pair: Served):
    import shutil

    make_encoder(pair.registry / "late")
    until(lambda: http.post("/v1/encoders/late/encode", json=BODY).status_code == 200)
    until(lambda: total(http, "bae_ray_requests_total", encoder="late", status="200") == 1)
    shutil.rmtree(pair.registry / "late")
    until(lambda: 'encoder="late"' not in http.get("/metrics").text)


def test_language_models_and_replicas_that_start_with_demand(http: httpx.Client):
    assert series(http, "bae_ray_replicas", deployment="texts", state="running") == {"": 0}
    assert http.post("/v1/encoders/run/texts/encode", json={"texts": ["w1"]}).status_code == 200
    assert total(http, "bae_ray_language_model_loads_total", language_model="tiny", result="loaded") == 1
    assert total(http, "bae_ray_loaded_language_models") == 1
    for deployment, n in {"texts": 1, "encoders": 2, "gateway": 2}.items():
        assert series(http, "bae_ray_replicas", deployment=deployment, state="running") == {"": n}
        assert total(http, "bae_ray_replicas", deployment=deployment) == n
    started = series(http, "bae_ray_replica_starts_total", deployment="texts")
    assert set(started.values()) == {1}, "each gateway has seen it come"
    assert len(started) == 2


def test_a_replica_that_died_is_seen(http: httpx.Client):
    before = series(http, "bae_ray_replica_starts_total", deployment="encoders")
    os.kill(replicas("Encoders", "pair")[0].pid, signal.SIGKILL)
    until(
        lambda: (
            series(http, "bae_ray_replica_starts_total", deployment="encoders")
            == {replica: n + 1 for replica, n in before.items()}
        ),
        60,
    )
    until(lambda: total(http, "bae_ray_replicas", deployment="encoders", state="running") == 2, 60)


def test_the_docs_have_every_series(http: httpx.Client):
    text = DOCS.read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`bae_ray_.*?) \| (.*?) \|", text, re.MULTILINE)
    documented = {
        name: {*labels.split(", ")} - {""} for names, labels in rows for name in re.findall(r"`(\w+)`", names)
    }
    shown: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(http.get("/metrics").text):
        name = f"{family.name}_total" if family.type == "counter" else family.name
        shown[name] = {label for sample in family.samples for label in sample.labels} - {"replica", "le"}
    shown["bae_ray_gpu_memory_bytes"] = {"deployment", "kind"}  # only where there is one
    assert documented.keys() == shown.keys()
    for name, labels in shown.items():
        assert labels <= documented[name], name


def test_series_of_replicas_stand_under_one_head():
    gateways = [Metrics("a"), Metrics("b")]
    for gateway in gateways:
        gateway.answered("/r", 200, 0.1, 3, encoder="one")
        gateway.answered("/r", 200, 0.1, 3, encoder="gone", code="invalid")
    loads = Loads("c", "encoders", "encoder", "cpu")
    with loads.loading("one"):
        pass
    with pytest.raises(ZeroDivisionError), loads.loading("one"):
        _ = 1 / 0
    loads.evicted("one")
    found = merged([each.collected() for each in (*gateways, loads)], {"one": None})
    names = [family.name for family in found]
    assert len(names) == len({*names})
    values = {(s.name, *sorted(s.labels.items())): s.value for family in found for s in family.samples}
    assert values["bae_ray_encoder_loads_total", ("encoder", "one"), ("replica", "c"), ("result", "loaded")] == 1
    assert values["bae_ray_encoder_loads_total", ("encoder", "one"), ("replica", "c"), ("result", "failed")] == 1
    assert values["bae_ray_encoder_evictions_total", ("encoder", "one"), ("replica", "c")] == 1
    assert values["bae_ray_loaded_encoders", ("replica", "c")] == 0
    assert values["bae_ray_rows_total", ("replica", "b")] == 6
    assert not any(("encoder", "gone") in labels for _, *labels in values)


def test_states_of_replicas():
    from collections import Counter

    counts = Counter({"RUNNING": 2, "STARTING": 2, "STOPPING": 1})
    ages = {"a": 100.0, "b": 100.0, "c": 31.0, "d": 5.0}
    assert _states(counts, {"a", "b"}, ages) == States(running=2, silent=0, starting=1, unplaced=1, stopping=1)
    assert _states(counts, {"a"}, ages) == States(running=1, silent=1, starting=1, unplaced=1, stopping=1)
    none = Counter[str]()
    assert _states(none, set(), {}, lacking=True) == States(0, 0, 0, unplaced=1, stopping=0), (
        "nobody asks for it in vain"
    )


@pytest.mark.gpu
def test_memory_of_a_gpu():
    before = gpu_memory("cuda")
    kept = torch.zeros(1 << 28, dtype=torch.uint8, device="cuda")
    after = gpu_memory("cuda")
    assert after["kept"] - before["kept"] >= kept.nbytes
    assert before["free"] - after["free"] >= kept.nbytes
    assert after["total"] == torch.cuda.get_device_properties(0).total_memory


def test_the_page_for_grafana_names_series_that_there_are(http: httpx.Client):
    page = json.loads((DOCS.parents[1] / "deploy" / "grafana" / "bae_ray.json").read_text())
    queries = [target["expr"] for panel in page["panels"] for target in panel.get("targets", ())]
    wanted = {name for query in queries for name in re.findall(r"\bbae_ray_\w+", query)}
    assert len(wanted) > 8
    assert http.post("/v1/encoders/one/encode", json=BODY).status_code == 200
    # A gauge by encoder, such as the requests that wait, has a head alone where nothing waits.
    until(lambda: wanted <= set(re.findall(r"^(?:# TYPE )?(\w+)", http.get("/metrics").text, re.MULTILINE)))
