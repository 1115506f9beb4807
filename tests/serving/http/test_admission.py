"""Which requests count, until when their bodies are waited for, and whose errors they are."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from starlette.types import Message, Receive, Scope, Send

from bae_ray.serving.config import LimitsConfig
from bae_ray.serving.http import request as request_module
from bae_ray.serving.http.keys import Keys, read_keys
from bae_ray.serving.http.limits import Arrival, Load
from bae_ray.serving.http.middleware import RequestMiddleware
from bae_ray.serving.monitoring.counts import Metrics
from bae_ray.serving.time_limits import TimeLimit
from tests.serving.support import Served


def around(app: Callable[[Scope, Receive, Send], Any]) -> RequestMiddleware:
    return RequestMiddleware(app, Keys({}), LimitsConfig(body_timeout_s=30), Metrics("r"))


@pytest.mark.parametrize(("method", "content"), [("GET", b""), ("GET", b"x"), ("HEAD", b"x")])
def test_a_read_counts_from_its_head_on_whatever_it_sends(method: str, content: bytes):
    seen = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(made._load._requests)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def ask() -> None:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(made), base_url="http://gateway") as http:
            await http.request(method, "/v1/encoders", content=content)

    made = around(app)
    asyncio.run(ask())
    assert seen == [1]
    assert made._load._requests == 0


def test_a_body_that_stops_is_not_waited_for_however_much_of_it_is_here(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(request_module, "PAUSE_S", 0.3)
    parts: list[Message] = [{"type": "http.request", "body": bytes(1 << 20), "more_body": True}]
    sent: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await scope["state"]["body"].read()

    async def receive() -> Message:
        return parts.pop() if parts else await asyncio.sleep(60, {"type": "http.disconnect"})

    async def send(message: Message) -> None:
        sent.append(message)

    made = around(app)
    scope: Scope = {
        "type": "http", "method": "POST", "path": "/v1/encoders/bae/encode",
        "headers": [(b"content-length", b"%d" % (4 << 20))],
    }  # fmt: skip
    started = time.monotonic()
    asyncio.run(made(scope, receive, send))
    assert time.monotonic() - started < 5
    assert sent[0]["status"] == 408
    assert made._load._bytes == 0


class Sender:
    """A client whose body stops after its first byte."""

    def __init__(self, made: RequestMiddleware, address: str, key: str | None = None, body: bytes = b"{") -> None:
        self._made, self._body = made, body
        self.status: int | None = None
        headers = [(b"content-length", b"1000")]
        headers += [(b"authorization", f"Bearer {key}".encode())] if key else []
        self._scope: Scope = {
            "type": "http", "method": "POST", "path": "/v1/encoders/bae/encode", "headers": headers,
            "client": (address, 1),
        }  # fmt: skip

    async def send(self) -> None:
        parts = [self._body]

        async def receive() -> Message:
            if not parts:
                await asyncio.sleep(60)
            return {"type": "http.request", "body": parts.pop(), "more_body": True}

        async def send(message: Message) -> None:
            self.status = message.get("status", self.status)

        await self._made(self._scope, receive, send)


async def reads(scope: Scope, receive: Receive, send: Send) -> None:
    await scope["state"]["body"].read()


@pytest.mark.parametrize("keys", ["", f"{'a' * 32} name=many; {'b' * 32} name=one"])
def test_no_caller_takes_all_the_places_of_slow_bodies(monkeypatch: pytest.MonkeyPatch, keys: str):
    """By key, or without keys by address. A slow body is told so, however many others stand still."""
    monkeypatch.setattr(request_module, "GRACE_S", 0.5)
    monkeypatch.setenv("BAE_RAY_API_KEYS", keys)
    limits = LimitsConfig(body_timeout_s=30, max_waiting=8, max_inflight=4)
    made = RequestMiddleware(reads, read_keys(None), limits, Metrics("r"))
    many = [Sender(made, "10.0.0.1", keys and "a" * 32) for _ in range(20)]
    first, last = (Sender(made, "10.0.0.1" if keys else "10.0.0.2", keys and "b" * 32, b"[1, ") for _ in range(2))

    async def ask() -> None:
        tasks = [asyncio.create_task(sender.send()) for sender in (first, *many)]
        await asyncio.sleep(0.1)
        assert [sender.status for sender in many].count(429) == 16, "half of all places, and no more"
        await asyncio.gather(last.send(), *tasks)

    asyncio.run(ask())
    assert (first.status, last.status) == (408, 408)
    assert [sender.status for sender in many].count(408) == 4
    assert made._load._arriving == set()
    assert not made._load._shares


def test_a_body_that_may_have_waited_for_the_service_is_asked_for_again():
    """As many others come in as fast as they have to: then the service is what is slow."""
    load = Load(LimitsConfig(max_inflight=4, min_body_rate=100), Metrics("r"))
    arrivals = [Arrival(f"{n}", started=10.0, size=size) for n, size in enumerate((1, 500, 500))]
    with load.waiting(arrivals[0]), load.waiting(arrivals[1]):
        assert not load.is_busy(12.0)
        with load.waiting(arrivals[2]):
            assert load.is_busy(12.0)
            assert not load.is_busy(16.0), "they stand still since"
    load.enter()
    assert not load.is_busy(12.0)
    load.enter()
    assert load.is_busy(12.0), "half of what may be worked on"


def test_one_call_that_took_too_long_shortens_no_later_one():
    time_limit = TimeLimit(1.0)
    with pytest.raises(OSError, match="takes more than 1 s"):
        time_limit.call("slow", lambda: time.sleep(1.5))
    assert time_limit.call("other", lambda: time.sleep(0.3) or "read") == "read"


def test_answers_about_a_broken_encoder_say_which_one(served: Served, http: httpx.Client):
    shown = http.get("/v1/encoders/cut")
    refused = http.post("/v1/encoders/cut/encode", json={"x": [[0.0] * 16]})
    assert refused.json()["code"] == "encoder_broken"
    assert shown.headers["x-encoder-version"] == refused.headers["x-encoder-version"]
    assert 'bae_ray_errors_total{code="encoder_broken",encoder="cut"' in http.get("/metrics").text
