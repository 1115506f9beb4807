"""What Serve's own proxy answers, as a problem; an application in its place says what it would."""

import asyncio
import os
import signal
import time
from pathlib import Path

import httpx
import pytest
from starlette.types import Message, Receive, Scope, Send

from bae_ray.serving.http.problems import KINDS
from bae_ray.serving.proxy import middlewares
from tests.serving.command import is_ready, serving
from tests.serving.support import make_encoder, until

NOT_DEPLOYED = "Path '/v1/encoders' not found. Ping http://.../-/routes for available routes."
"""What Serve's proxy says with its 404."""


def through(
    status: int | None,
    content_type: str = "text/plain",
    path: str = "/v1/encoders",
    body: str = "Request dropped.",
    tells_length: bool = False,
) -> httpx.Response:
    """The answer to a request whose proxy says this, or nothing."""

    async def proxy(scope: Scope, receive: Receive, send: Send) -> None:
        if status is not None:
            headers = [(b"content-type", content_type.encode()), (b"x-request-id", b"the proxy's")]
            if tells_length:
                headers.append((b"content-length", str(len(body)).encode()))
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": body[:-1].encode(), "more_body": True})
            await send({"type": "http.response.body", "body": body[-1:].encode()})

    (middleware,) = middlewares()
    app = middleware.cls(proxy, *middleware.args, **middleware.kwargs)

    async def ask() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x") as http:
            return await http.get(path, headers={"x-request-id": "mine"})

    return asyncio.run(ask())


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (None, "unavailable"),
        (500, "unavailable"),
        (503, "unavailable"),
        (429, "overloaded"),
        (408, "deadline"),
        (404, "unavailable"),
    ],
)
def test_what_is_no_problem_becomes_one(status: int | None, code: str):
    answer = through(status, body=NOT_DEPLOYED if status == 404 else "Request dropped.")
    assert answer.headers["content-type"] == "application/problem+json"
    assert (answer.status_code, answer.json()["code"]) == (KINDS[code].status, code)
    assert answer.json()["request_id"] == answer.headers["x-request-id"] == ("the proxy's" if status else "mine")
    assert ("retry-after" in answer.headers) == (code in ("unavailable", "overloaded"))
    assert "dropped" not in answer.text
    assert "Ping" not in answer.text


@pytest.mark.parametrize(
    ("status", "content_type", "path"),
    [
        (200, "application/json", "/v1/encoders"),
        (422, "application/problem+json", "/v1/encoders"),
        (404, "application/json", "/v1/chat/completions"),
        (503, "text/plain", "/-/healthz"),
    ],
)
def test_answers_of_the_service_and_of_the_proxys_own_addresses_pass(status: int, content_type: str, path: str):
    answer = through(status, content_type, path)
    assert (answer.status_code, answer.headers["content-type"]) == (status, content_type)
    assert answer.text == "Request dropped."


@pytest.mark.parametrize(("status", "tells_length"), [(404, True), (404, False), (401, True), (500, True), (503, True)])
def test_errors_in_text_of_another_application_pass(status: int, tells_length: bool):
    """Frameworks tell the length of such an answer, and the proxy never does."""
    answer = through(status, "text/plain; charset=utf-8", "/other/x", "Not Found", tells_length)
    assert (answer.status_code, answer.text) == (status, "Not Found")
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"


def test_a_stream_begins_before_its_body():
    """Another application may stream what it has yet to make."""
    sent: list[str] = []

    async def proxy(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
        assert sent == ["http.response.start"]
        await send({"type": "http.response.body", "body": b"x"})

    async def send(message: Message) -> None:
        sent.append(message["type"])

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    (middleware,) = middlewares()
    app = middleware.cls(proxy, *middleware.args, **middleware.kwargs)

    async def ask() -> None:
        await app({"type": "http", "path": "/other", "headers": []}, receive, send)

    asyncio.run(ask())
    assert sent == ["http.response.start", "http.response.body"]


@pytest.mark.slow
def test_a_killed_proxy_is_replaced_soon(tmp_path: Path):
    """Serve alone takes over 16 s to find out."""
    make_encoder(tmp_path / "one")
    with serving(tmp_path) as service:
        (proxy,) = service.processes("ray::ProxyActor")
        os.kill(proxy.pid, signal.SIGKILL)
        killed = time.monotonic()
        until(lambda: not is_ready(service.url), 5)
        until(lambda: is_ready(service.url), 60)
        seconds = time.monotonic() - killed
        print(f"the port was closed for {seconds:.1f} s")
        assert seconds < 16
