"""What calls of replicas fail with, as problems; stand-ins for the replicas say it."""

import asyncio
import json
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any, cast

import httpx
import numpy as np
import pytest
from httpx_sse import EventSource
from ray.exceptions import RayTaskError
from ray.serve.exceptions import ReplicaUnavailableError
from ray.serve.handle import DeploymentHandle
from typing_extensions import override

from bae_ray.client import Continuation, Steered, SteeredToken
from bae_ray.client.effects import event_of
from bae_ray.errors import CheckpointError, NotFiniteError, OutOfMemoryError, UnknownModelError
from bae_ray.serving.compute.interface import (
    COMPUTING,
    LOADING,
    RefusedError,
    TextActivations,
    WrittenText,
    WrittenToken,
)
from bae_ray.serving.config import ServiceConfig
from bae_ray.serving.http.api import create_app
from bae_ray.serving.http.keys import Keys
from bae_ray.serving.http.middleware import RequestMiddleware
from bae_ray.serving.http.problems import KINDS
from bae_ray.serving.http.request import aside
from bae_ray.serving.http.service import ALONE, Service
from bae_ray.serving.monitoring.counts import Metrics
from tests.serving.support import LIMITS, D, make_run

TOKEN = TextActivations(
    np.zeros((1, D), np.float32), np.zeros(1, np.int32), np.zeros((1, 2), np.int32), ["w"], np.array([0, 1])
)


class Response:
    """In place of what a deployment's call returns."""

    def __init__(self, made: Any, seconds: float) -> None:
        self._made, self._seconds = made, seconds
        self.is_cancelled = False

    def __await__(self) -> Generator[Any, None, Any]:
        return self._wait().__await__()

    async def _wait(self) -> Any:
        await asyncio.sleep(self._seconds)
        if isinstance(self._made, Exception):
            raise RayTaskError("remote", "the trace", self._made).as_instanceof_cause()
        return self._made

    def cancel(self) -> None:
        self.is_cancelled = True


class Replicas:
    """In place of a deployment's handle: every method, with whatever options, does the same."""

    def __init__(self, made: Any, seconds: float = 0, doing: str = COMPUTING) -> None:
        self._made, self._seconds, self._doing = made, seconds, doing
        self.calls: list[Response] = []

    @property
    def doing(self) -> "Replicas":
        return Replicas(self._doing)

    def __getattr__(self, name: str) -> "Replicas":
        return self

    def options(self, **_: Any) -> "Replicas":
        return self

    def remote(self, *_: Any) -> Response:
        self.calls.append(Response(self._made, self._seconds))
        return self.calls[-1]


def ask(
    folder: Path, encoders: Replicas, texts: Replicas, path: str, deadline_s: float = 5,
    body: dict[str, Any] | None = None, accept: str = "application/json",
) -> httpx.Response:  # fmt: skip
    """The answer of a gateway before such replicas."""
    (answer,) = ask_at_once(folder, encoders, texts, path, 1, deadline_s, body, accept)
    return answer


def ask_at_once(
    folder: Path, encoders: Replicas, texts: Replicas, path: str, n: int, deadline_s: float = 5,
    body: dict[str, Any] | None = None, accept: str = "application/json",
) -> list[httpx.Response]:  # fmt: skip
    """The answers to n requests."""
    make_run(folder / "run", "tiny")
    limits = LIMITS.model_copy(update={"deadline_s": deadline_s})
    config, metrics = ServiceConfig(registry=folder, limits=limits), Metrics("r")
    service = Service(config, cast(DeploymentHandle, encoders), cast(DeploymentHandle, texts), metrics)
    app = RequestMiddleware(create_app(service), Keys({}), limits, metrics)

    async def send() -> list[httpx.Response]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway") as http:
            sent = body or ({"texts": ["w"]} if path.startswith("texts") else {"x": [[0.0] * D]})
            headers = {"accept": accept}
            calls = (http.post(f"/v1/encoders/run/{path}", json=sent, headers=headers) for _ in range(n))
            return await asyncio.gather(*calls)

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


@pytest.mark.parametrize("doing", [COMPUTING, LOADING])
@pytest.mark.parametrize("path", ["encode", "compress", "texts/encode?top_k=1"])
def test_a_deadline_tells_loading_from_computing(tmp_path: Path, path: str, doing: str):
    slow = Replicas(TOKEN, 3, doing)
    answer = ask(tmp_path, slow, slow, path, deadline_s=0.3)
    if doing == COMPUTING:
        assert (answer.status_code, answer.json()["code"]) == (504, "deadline")
        assert "fewer" in answer.json()["detail"]
    else:
        assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
        assert doing in answer.json()["detail"]
        assert answer.headers["retry-after"]


@pytest.mark.parametrize("path", ["compress", "texts/encode?top_k=1"])
def test_what_nobody_waits_for_any_more_is_taken_back(tmp_path: Path, path: str):
    slow = Replicas(TOKEN, 3)
    answer = ask(tmp_path, slow, slow, path, deadline_s=0.3)
    assert (answer.status_code, answer.json()["code"]) == (504, "deadline")
    assert [call.is_cancelled for call in slow.calls] == [True]


@pytest.mark.parametrize(("path", "most"), [("compress", ALONE["encoders"]), ("texts/encode?top_k=1", ALONE["texts"])])
def test_what_is_not_batched_does_not_wait_without_bounds(tmp_path: Path, path: str, most: int):
    """Nor does it take all places in the replicas from what is."""
    slow = Replicas(OSError("no"), 0.3)
    answers = ask_at_once(tmp_path, slow, slow, path, most + 5)
    assert sorted(answer.status_code for answer in answers) == [429] * 5 + [503] * most
    assert all(answer.json()["code"] == "overloaded" for answer in answers if answer.status_code == 429)
    assert len(slow.calls) == most


def test_paths_of_the_machine_are_not_told(tmp_path: Path):
    broken = Replicas(CheckpointError(f"W_enc in {tmp_path}/run/model.safetensors: expected finite numbers"))
    answer = ask(tmp_path, broken, broken, "encode")
    assert (answer.status_code, answer.json()["code"]) == (503, "encoder_broken")
    assert answer.json()["detail"] == "W_enc in run/model.safetensors: expected finite numbers"
    unknown = Replicas(UnknownModelError("model '/secret/models/tiny' is no local folder"))
    answer = ask(tmp_path, unknown, unknown, "texts/encode")
    assert (answer.status_code, answer.json()["code"]) == (422, "no_language_model")
    assert "tiny" in answer.text
    assert "secret" not in answer.text


def test_a_thread_is_waited_for_when_its_client_has_gone():
    """It still holds the memory that is counted for the request."""
    ended: list[float] = []

    def work() -> None:
        time.sleep(0.5)
        ended.append(time.monotonic())

    async def run() -> float:
        task = asyncio.create_task(aside("application/json", 1 << 20, work))
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return time.monotonic()

    assert asyncio.run(run()) >= ended[0]


class Stream:
    """In place of what a call with a stream returns: some parts, then an error, or nothing for a long time."""

    def __init__(self, parts: list[Any], error: Exception | None) -> None:
        self._parts, self._error, self.is_cancelled = parts, error, False

    async def __anext__(self) -> Any:
        if self._parts:
            return self._parts.pop(0)
        if isinstance(self._error, StopAsyncIteration):
            raise StopAsyncIteration
        if self._error is None:
            await asyncio.sleep(60)
            raise AssertionError
        raise RayTaskError("remote", "the trace", self._error).as_instanceof_cause()

    def cancel(self) -> None:
        self.is_cancelled = True


class Writers(Replicas):
    """In place of the texts' handle, each call of which gives the same stream."""

    def __init__(self, stream: Stream) -> None:
        super().__init__(None)
        self._stream = stream

    @override
    def __getattr__(self, name: str) -> "Writers":
        return self

    @override
    def options(self, **options: Any) -> "Writers":
        assert options == {"stream": True}
        return self

    @override
    def remote(self, *_: Any) -> Any:
        return self._stream


PAIR = [WrittenToken("steered", 4, " w3"), WrittenToken("plain", 5, " w4")]


@pytest.mark.parametrize("accept", ["text/event-stream", "application/json"])
@pytest.mark.parametrize(
    ("error", "deadline_s", "code"),
    [
        (None, 0.5, "deadline"),
        (ReplicaUnavailableError("gone"), 5, "unavailable"),
        (NotFiniteError("NaN"), 5, "not_finite"),
        (OutOfMemoryError("too little"), 5, "unavailable"),
        (RefusedError("it cannot go on"), 5, "invalid"),
        (RuntimeError("a secret"), 5, "internal"),
    ],
)
@pytest.mark.parametrize("parts", [0, 1, 2])
def test_what_fails_while_a_text_is_written_is_an_event_and_ends_the_writing(
    tmp_path: Path, error: Exception | None, deadline_s: float, code: str, parts: int, accept: str
):
    stream = Stream([PAIR] * parts, error)
    body = {"text": "w", "ablate": [1]}
    answer = ask(tmp_path, Replicas(None), Writers(stream), "texts/steer", deadline_s, body, accept)
    assert stream.is_cancelled
    if accept == "application/json" or not parts:
        assert (answer.json()["code"], answer.status_code) == (code, KINDS[code].status)
        return
    assert answer.status_code == 200
    assert "secret" not in answer.text
    *tokens, last = EventSource(answer).iter_sse()
    assert [event.event for event in tokens] == ["token"] * 2 * parts
    told = json.loads(last.data)
    assert (last.event, told["code"], told["status"]) == ("problem", code, KINDS[code].status)
    assert told["request_id"] == answer.headers["x-request-id"]


def test_characters_that_end_lines_elsewhere_come_through(tmp_path: Path):
    odd = "".join(map(chr, (0x85, 0x2028, 0x2029, 0x0B, 0x0C, 0x1C, 0x0A, 0x0D, 0x00, 0x1F600)))
    texts = [WrittenText("steered", [4], odd, False), WrittenText("plain", [5], "b", True)]
    stream = Stream([[WrittenToken("steered", 4, odd)], texts], StopAsyncIteration())
    answer = ask(
        tmp_path, Replicas(None), Writers(stream), "texts/steer", 5, {"text": "w", "ablate": [1]}, "text/event-stream"
    )
    token, end = EventSource(answer).iter_sse()
    assert event_of(token) == SteeredToken("steered", 4, odd)
    assert event_of(end) == Steered(Continuation(odd, [4], False), Continuation("b", [5], True))
    assert answer.headers["cache-control"] == "no-cache"
