"""More than can be done, and replicas that are killed: what is answered is right, the rest is 429 or 503."""

import os
import re
import signal
import statistics
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from safetensors.numpy import load, save

from bae_ray import load_autoencoder
from bae_ray.serving.config import EncodersConfig, GatewayConfig, ServiceConfig
from tests.serving.support import KEY, LIMITS, D, Served, replicas, until

HEADERS = {"authorization": f"Bearer {KEY}", "content-type": "application/x-safetensors"}
MINUTE_S = 60
KILLS = 3


class Clients:
    """Threads that ask again and again until they are told to stop, and check every answer."""

    def __init__(self, served: Served, count: int, pause: float = 0) -> None:
        bae = load_autoencoder(served.registry / "bae")
        self.statuses: Counter[int] = Counter()
        self.latencies: list[float] = []
        self.wrong: list[str] = []
        self.answered_at: list[float] = []
        self._url, self._pause = f"{served.url}/v1/encoders/bae/encode", pause
        x = np.random.default_rng(0).normal(size=(LIMITS.max_rows, D)).astype(np.float32)
        self._body = save({"x": x})
        self._code = np.packbits(bae.encode(torch.from_numpy(x)).numpy().astype(bool), axis=1)
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(count)]

    def __enter__(self) -> "Clients":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask(self) -> None:
        with httpx.Client(timeout=120) as http:
            while not self._stop.is_set():
                started = time.monotonic()
                try:
                    answer = http.post(self._url, content=self._body, headers=HEADERS)
                except httpx.TransportError as error:
                    self.wrong.append(repr(error))
                    continue
                self.statuses[answer.status_code] += 1
                if answer.status_code == 200:
                    self.latencies.append(time.monotonic() - started)
                    self.answered_at.append(time.monotonic())
                    if not np.array_equal(load(answer.content)["code"], self._code):
                        self.wrong.append("a wrong code")
                elif answer.status_code in (429, 503) and answer.headers.get("retry-after") is None:
                    self.wrong.append(f"{answer.status_code} without Retry-After: {answer.text[:200]}")
                time.sleep(self._pause if answer.status_code == 200 else 0.05)


@pytest.mark.slow
def test_overload_for_a_minute(served: Served, http: httpx.Client):
    """Four times as many requests at once as the gateway takes on."""
    with Clients(served, 4 * LIMITS.max_inflight) as clients:
        time.sleep(MINUTE_S)
    assert clients.wrong == []
    assert set(clients.statuses) <= {200, 429, 503}
    assert clients.statuses[200] > 0
    assert clients.statuses[429] > 0, "there was more than it took on"
    assert statistics.quantiles(clients.latencies, n=100)[98] < LIMITS.deadline_s
    print(f"{dict(clients.statuses)}, p99 {statistics.quantiles(clients.latencies, n=100)[98]:.2f} s")
    started = time.monotonic()
    until(lambda: http.get("/readyz").status_code == 200)
    answer = http.post("/v1/encoders/bae/encode", json={"x": [[0.0] * D]})
    assert answer.status_code == 200
    print(f"recovered after {time.monotonic() - started:.2f} s")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["Encoders", "Gateway"])
def test_a_replica_killed_under_load(served: Served, http: httpx.Client, name: str, tmp_path: Path):
    until(lambda: replicas(name), 60)
    with Clients(served, 8) as clients:
        for _ in range(KILLS):
            time.sleep(3)
            victim = until(lambda: replicas(name), 120)[0]
            os.kill(victim.pid, signal.SIGKILL)
            killed = time.monotonic()
            until(lambda killed=killed: any(at > killed + 1 for at in clients.answered_at[-200:]), 120)
            recovery = next(at for at in clients.answered_at if at > killed + 1) - killed
            print(f"{name} killed; answered again within {recovery:.1f} s")
        time.sleep(3)
    assert clients.wrong == []
    assert set(clients.statuses) <= {200, 429, 503}, clients.statuses
    assert clients.statuses[200] > 0
    until(lambda: http.get("/readyz").status_code == 200, 60)


@pytest.fixture
def scaled(served: Served, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    """The service once more, with two gateways, and encoders of which there may be two."""
    from ray import serve

    from bae_ray.serving.app import build

    monkeypatch.setenv("BAE_RAY_API_KEYS", KEY)
    config = ServiceConfig(
        registry=served.registry,
        limits=LIMITS,
        gateway=GatewayConfig(num_cpus=0.1, min_replicas=2, max_replicas=2),
        encoders=EncodersConfig(num_cpus=0.1, min_replicas=1, max_replicas=2, target_ongoing=0.2),
    )
    serve.run(build(config), name="scaled", route_prefix="/scaled")
    yield Served(f"{served.url}/scaled", served.registry, config)
    serve.delete("scaled")


@pytest.mark.slow
def test_several_replicas_answer_right_and_come_with_the_load(scaled: Served):
    assert len(replicas("Gateway", "scaled")) == 2
    assert len(replicas("Encoders", "scaled")) == 1
    with Clients(scaled, 12) as clients:
        started = time.monotonic()
        until(lambda: len(replicas("Encoders", "scaled")) == 2, 180)
        print(f"the second replica of the encoders ran after {time.monotonic() - started:.0f} s")
        time.sleep(10)
    assert clients.wrong == []
    assert set(clients.statuses) <= {200, 429}, clients.statuses
    assert clients.statuses[200] > 0
    page = httpx.get(f"{scaled.url}/metrics", timeout=60).text
    pattern = r'bae_ray_requests_total{encoder="\w+",replica="(\w+)",route="[^"]*/encode",status="200"} ([0-9.]+)'
    answered = re.findall(pattern, page)
    assert len({replica for replica, count in answered if float(count) > 0}) == 2, "both gateways have answered"
