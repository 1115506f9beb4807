"""Which requests count, until when their bodies are waited for, and whose errors they are."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from starlette.types import Message, Receive, Scope, Send

from bae_ray.serving.config import LimitsConfig
from bae_ray.serving.http import request_body
from bae_ray.serving.http.keys import Keys
from bae_ray.serving.http.middleware import RequestMiddleware
from bae_ray.serving.monitoring.gateway_metrics import Metrics
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
    monkeypatch.setattr(request_body, "PAUSE_S", 0.3)
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
