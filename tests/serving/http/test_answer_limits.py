"""The gateway without replicas: too large an answer is refused before it is computed, and all that are made count."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, cast

import httpx
import numpy as np
import pytest
import torch
from ray.serve.handle import DeploymentHandle
from safetensors.numpy import load, save

from bae_ray.compression import compress
from bae_ray.serving.compute.interface import Operation
from bae_ray.serving.config import LimitsConfig, ServiceConfig
from bae_ray.serving.http import sizes
from bae_ray.serving.http.api import create_app
from bae_ray.serving.http.keys import Keys
from bae_ray.serving.http.middleware import RequestMiddleware
from bae_ray.serving.http.problems import Problem
from bae_ray.serving.http.service import Service
from bae_ray.serving.monitoring.counts import Metrics
from bae_ray.serving.registry.entry import Entry
from tests.serving.support import D, F, make_encoder, make_run

BINARY = "application/x-safetensors"
LIMITS = LimitsConfig(max_body_bytes=8192, max_response_bytes=4096, max_inflight_bytes=48_000)
ROWS = 20  # 3,520 bytes of magnitudes, 22,000 as nested JSON


class Gateway(NamedTuple):
    service: Service
    gateway: RequestMiddleware
    computed: list[str]
    """What the replicas were asked for."""


@pytest.fixture
def gateway(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gateway]:
    make_encoder(tmp_path / "bae")
    make_run(tmp_path / "run", "tiny")
    no_handle, metrics, computed = cast(DeploymentHandle, None), Metrics("r"), []
    service = Service(ServiceConfig(registry=tmp_path, limits=LIMITS), no_handle, no_handle, metrics)

    async def compute(entry: Entry, operation: Operation, rows: np.ndarray) -> dict[str, np.ndarray]:
        computed.append(operation.name)
        await asyncio.sleep(0)
        return {name: np.zeros(a.shape, a.dtype) for name, a in sizes.planned(entry, operation, len(rows)).items()}

    async def call(entry: Entry, method: str, *arguments: Any) -> Any:
        computed.append(method)
        return STORED if method == "compress" else {"x": np.zeros((ROWS, D), np.float32)}

    monkeypatch.setattr(service, "compute", compute)
    monkeypatch.setattr(service, "call", call)
    gateway = RequestMiddleware(create_app(service), Keys({}), LIMITS, metrics)
    yield Gateway(service, gateway, computed)
    assert gateway._load._bytes == gateway._load._requests == 0, "everything is given back"


def ask(
    gateway: Gateway, path: str, content: bytes, accept: str, n: int = 1, media: str = BINARY
) -> list[httpx.Response]:
    """The answers to so many requests at once."""

    async def send() -> list[httpx.Response]:
        transport = httpx.ASGITransport(gateway.gateway)
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as http:
            headers = {"content-type": media, "accept": accept}
            return await asyncio.gather(
                *(http.post(f"/v1/encoders/{path}", content=content, headers=headers) for _ in range(n))
            )

    return asyncio.run(send())


X = save({"x": np.zeros((ROWS, D), np.float32)})
CODE = save({"code": np.zeros((ROWS, 6), np.uint8)})
CONTAINER = compress(torch.zeros(ROWS, F), torch.zeros(F))
STORED = compress(torch.rand(520, F, generator=torch.manual_seed(0)) < 0.5, torch.full((F,), 0.5))
assert 0.75 * LIMITS.max_response_bytes < len(STORED) < LIMITS.max_response_bytes, "too large as base64 only"


@pytest.mark.parametrize(
    ("path", "content", "computes"),
    [
        ("bae/encode?format=magnitudes", X, "magnitudes"),
        ("bae/encode?format=magnitudes&top_k=10", X, "top_k"),
        ("bae/encode?format=indices&top_k=20", X, "top_k"),
        ("bae/decode", CODE, "decode_packed"),
        ("bae/decompress", CONTAINER, "decompress"),
    ],
)
def test_an_answer_that_is_too_large_in_json_is_refused_before_it_is_computed(
    gateway: Gateway, path: str, content: bytes, computes: str
):
    (refused,) = ask(gateway, path, content, "application/json")
    assert (refused.status_code, refused.json()["code"]) == (413, "answer_too_large"), refused.text
    assert gateway.computed == []
    (given,) = ask(gateway, path, content, BINARY)
    assert given.status_code == 200
    assert gateway.computed == [computes]
    assert sum(array.nbytes for array in load(given.content).values()) <= LIMITS.max_response_bytes


def test_a_container_as_base64_is_a_third_larger(gateway: Gateway):
    assert ask(gateway, "bae/compress", X, BINARY)[0].status_code == 200
    refused = ask(gateway, "bae/compress", X, "application/json")[0]
    assert (refused.status_code, refused.json()["code"]) == (413, "answer_too_large")


def test_texts_are_refused_by_the_number_of_their_tokens(gateway: Gateway, monkeypatch: pytest.MonkeyPatch):
    """The language model's replica is told how many tokens the answer may be of."""
    told = []

    async def texts(entry: Entry, texts: list[str], most: int) -> None:
        told.append(most)
        raise Problem("no_language_model", "")

    monkeypatch.setattr(gateway.service, "texts", texts)
    for accept in ("application/json", BINARY):
        ask(gateway, "run/texts/encode", b'{"texts": ["a"]}', accept, media="application/json")
    assert told == [4096 // (96 + 8 * 56), 4096 // (96 + 8 * 8)]


def test_answers_under_way_count_against_the_memory_for_all(gateway: Gateway):
    """Each holds its rows and its answer twice, 8,320 bytes: five go, the others are told to come again."""
    statuses = [answer.status_code for answer in ask(gateway, "bae/encode?format=magnitudes", X, BINARY, n=12)]
    assert sorted(statuses) == [200] * 5 + [429] * 7
    assert ask(gateway, "bae/encode?format=magnitudes", X, BINARY)[0].status_code == 200, "then there is room again"
