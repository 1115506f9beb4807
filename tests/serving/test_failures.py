"""What calls of replicas fail with, as problems; stand-ins for the replicas say it."""

import asyncio
import time
from pathlib import Path
from typing import Any, cast

import httpx
import numpy as np
import pytest
from ray.exceptions import RayTaskError
from ray.serve.handle import DeploymentHandle

from bae_ray.serving.api import create_app
from bae_ray.serving.config import ServiceConfig
from bae_ray.serving.keys import Keys
from bae_ray.serving.manners import Manners
from bae_ray.serving.metrics import Metrics
from bae_ray.serving.service import Service
from bae_ray.serving.texts import TextActivations
from tests.serving.support import LIMITS, D, make_run

TOKEN = TextActivations(
    np.zeros((1, D), np.float32), np.zeros(1, np.int32), np.zeros((1, 2), np.int32), ["w"], np.array([0, 1])
)


class Replicas:
    """In place of a deployment's handle: every method, with whatever options, does the same."""

    def __init__(self, made: Any, seconds: float = 0) -> None:
        self._made, self._seconds = made, seconds

    def __getattr__(self, name: str) -> "Replicas":
        return self

    def options(self, **_: Any) -> "Replicas":
        return self

    async def remote(self, *_: Any) -> Any:
        await asyncio.sleep(self._seconds)
        if isinstance(self._made, Exception):
            raise RayTaskError("remote", "the trace", self._made).as_instanceof_cause()
        return self._made


def ask(folder: Path, encoders: Replicas, texts: Replicas, path: str, deadline_s: float = 5) -> httpx.Response:
    """The answer of a gateway before such replicas."""
    make_run(folder / "run", "tiny")
    limits = LIMITS.model_copy(update={"deadline_s": deadline_s})
    config, metrics = ServiceConfig(registry=folder, limits=limits), Metrics("r")
    service = Service(config, cast(DeploymentHandle, encoders), cast(DeploymentHandle, texts), metrics)
    app = Manners(create_app(service), Keys({}), limits, metrics)

    async def send() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway") as http:
            body = {"texts": ["w"]} if path.startswith("texts") else {"x": [[0.0] * D]}
            return await http.post(f"/v1/encoders/run/{path}", json=body)

    return asyncio.run(send())


@pytest.mark.parametrize("error", [PermissionError(13, "denied", "/secret/model"), OSError(5, "input/output error")])
@pytest.mark.parametrize("path", ["encode", "compress", "texts/encode"])
def test_files_that_cannot_be_read_now_are_no_error_of_the_service(tmp_path: Path, error: OSError, path: str):
    failing = Replicas(error)
    answer = ask(tmp_path, failing, failing, path)
    assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
    assert answer.headers["retry-after"]
    assert "secret" not in answer.text


@pytest.mark.parametrize(("deadline_s", "status"), [(5, 200), (1, 504)])
def test_a_request_has_one_deadline_whatever_it_takes(tmp_path: Path, deadline_s: float, status: int):
    """The language model and the encoder need less than it each, and more together."""
    made = {"indices": np.zeros((1, 1), np.int32), "magnitudes": np.zeros((1, 1), np.float32)}
    started = time.monotonic()
    answer = ask(tmp_path, Replicas(made, 0.7), Replicas(TOKEN, 0.7), "texts/encode?top_k=1", deadline_s)
    assert answer.status_code == status, answer.text
    assert status == 200 or answer.json()["code"] == "deadline"
    assert time.monotonic() - started < 5
