"""What every request goes through, whatever its route: its id, its key, limits, the log, and errors as problems.

Plain ASGI, because it has to see bodies before anything reads them.
"""

import asyncio
import logging
import re
import time
import uuid
from typing import Any

from ray.exceptions import RayActorError
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bae_ray.serving.config import LimitsConfig
from bae_ray.serving.http.key_file import Keyring
from bae_ray.serving.http.keys import ANYONE, Caller, Keys
from bae_ray.serving.http.limits import Held, Load
from bae_ray.serving.http.problems import MEDIA_TYPE, Problem
from bae_ray.serving.http.quotas import Quotas
from bae_ray.serving.monitoring.metrics import Metrics

REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
OPEN = ("/livez", "/readyz", "/metrics", "/docs", "/openapi.json", "/")
"""What needs no key, with all that is below /docs/."""
PAUSE_S = 10.0
"""No part of a body comes later than this after the one before: a client that stops is not waited for."""
GRACE_S = 5.0
"""Seconds for a body to begin with, before its rate counts."""
HEADER = b"x-request-id"
VERSION_HEADER = b"x-encoder-version"
"""Of answers about an encoder: which one went by the id."""

log = logging.getLogger("ray.serve")


class Exchange:
    """A request under way, and what is noted of it."""

    def __init__(self, request_id: str, method: str, caller: Caller, held: Held) -> None:
        self.id, self.method, self.caller, self.held = request_id, method, caller, held
        self.encoder: str | None = None
        self.version: str | None = None
        self.rows = 0
        self.bytes_in = 0
        self.bytes_out = 0
        self.status = 499  # nginx's word for: the client went away
        self.code: str | None = None
        self._is_counted = False

    def enter(self) -> None:
        """Count the request among those that are worked on, once. Raises `overloaded`."""
        if not self._is_counted:
            self.held.load.enter()
            self._is_counted = True

    def leave(self) -> None:
        """It is answered."""
        self.held.give_back()
        if self._is_counted:
            self.held.load.leave()


class Manners:
    """An ASGI application around the routes."""

    def __init__(self, app: ASGIApp, keys: Keys | Keyring, limits: LimitsConfig, metrics: Metrics) -> None:
        self._app, self._keys, self._metrics = app, keys, metrics
        self._load, self._quotas = Load(limits, metrics), Quotas()
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        request_id = given if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        exchange = Exchange(request_id, scope["method"], ANYONE, Held(self._load))
        if exchange.method == "HEAD":  # all that GET answers with, but for the body
            scope = {**scope, "method": "GET"}
        body = Body(receive, headers, self._limits, exchange)
        scope.setdefault("state", {}).update(exchange=exchange, body=body)

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                exchange.status = message["status"]
                # Serve adds the request id that it gave, or was given.
                more = [(HEADER, exchange.id.encode())] if exchange.id != given else []
                if exchange.version is not None:
                    more.append((VERSION_HEADER, exchange.version.encode()))
                message = {**message, "headers": [*message["headers"], *more]}
            else:
                if exchange.method == "HEAD":
                    message = {**message, "body": b""}
                exchange.bytes_out += len(message.get("body", b""))
            await send(message)

        try:
            await self._answer(scope, receive, answer, headers)
        finally:
            self._note(scope, exchange, time.perf_counter() - started)

    async def _answer(self, scope: Scope, receive: Receive, send: Send, headers: Headers) -> None:
        """The routes' answer, or a problem."""
        exchange: Exchange = scope["state"]["exchange"]
        is_taken = False
        try:
            if not _is_open(scope["path"].removeprefix(scope.get("root_path", "")) or "/"):
                exchange.caller = self._caller(headers)
                self._quotas.enter(exchange.caller)
                is_taken = True
                if exchange.method == "POST" and _has_body(
                    headers
                ):  # then it counts when that is there: slow bodies are nobody's work
                    self._load.check()
                else:
                    exchange.enter()
            _check_coding(headers)
            await self._app(scope, receive, send)
        except Problem as problem:
            await _send(problem, exchange, send)
        except Exception:
            # Starlette has answered with `internal`, and raises it on for servers to see.
            log.exception(f"request {exchange.id} failed")
        finally:
            exchange.leave()
            if is_taken:
                self._quotas.leave(exchange.caller)

    def _caller(self, headers: Headers) -> Caller:
        if not self._keys:
            return ANYONE
        kind, _, key = headers.get("authorization", "").partition(" ")
        challenge = {"www-authenticate": "Bearer"}
        if kind.lower() != "bearer" or not key.strip():
            raise Problem("no_key", "Send the header Authorization: Bearer KEY.", challenge)
        if (caller := self._keys.find(key.strip())) is None:
            raise Problem("wrong_key", "The service does not know this key.", challenge)
        return caller

    def _note(self, scope: Scope, exchange: Exchange, seconds: float) -> None:
        """Count the request, and write a line of the log, which holds nothing of its body."""
        route = getattr(scope.get("route"), "path", "none")
        self._metrics.answered(
            route, exchange.status, seconds, exchange.rows, encoder=exchange.encoder, code=exchange.code
        )
        if _is_open(route) and exchange.status == 200:
            return
        fields: dict[str, Any] = {
            "request": exchange.id,
            "caller": exchange.caller.name,
            "method": exchange.method,
            "route": route,
            "encoder": exchange.encoder,
            "status": exchange.status,
            "code": exchange.code,
            "rows": exchange.rows,
            "bytes_in": exchange.bytes_in,
            "bytes_out": exchange.bytes_out,
            "ms": round(1000 * seconds, 2),
        }
        text = " ".join(f"{name}={value}" for name, value in fields.items() if value is not None)
        log.info(text, extra={f"bae_{name}": value for name, value in fields.items()})


def _is_open(path: str) -> bool:
    return path in OPEN or path.startswith("/docs/")


def _check_coding(headers: Headers) -> None:
    """Raise `unsupported_coding` for a body that is compressed: its size would say nothing of what is in it."""
    given = ",".join(headers.getlist("content-encoding"))
    if {coding.strip().lower() for coding in given.split(",")} - {"", "identity"}:
        detail = "Send the body as it is: without the header Content-Encoding, or with `identity`."
        raise Problem("unsupported_coding", detail, {"accept-encoding": "identity"})


class GoneError(Exception):
    """The client went away before its body was read."""


class Body:
    """A request's body, read once, within the limits, while it comes in."""

    def __init__(self, receive: Receive, headers: Headers, limits: LimitsConfig, exchange: Exchange) -> None:
        self._receive, self._limits, self._exchange = receive, limits, exchange
        self._length = headers.get("content-length", "")
        self._taken = 0

    async def read(self) -> bytes:
        """All of it; then the request is worked on.

        Raises `body_too_large`, `body_timeout` and `overloaded`, before the rest is read.
        """
        with self._exchange.held.load.waiting():
            body = await self._read()
        self._exchange.enter()
        return body

    async def _read(self) -> bytes:
        announced = int(self._length) if self._length.isdecimal() else 0
        self._check(announced)
        self._exchange.held.load.check(announced)  # it is counted as it comes: who only announces holds nothing
        parts: list[bytes] = []
        size, started = 0, (now := asyncio.get_running_loop().time)()
        try:
            async with asyncio.timeout_at(self._latest(started, started, size)) as timeout:
                more = True
                while more:
                    try:
                        message = await self._receive()
                    except RayActorError as error:  # of Serve's proxy, which has the connection
                        raise GoneError from error
                    if message["type"] == "http.disconnect":
                        raise GoneError
                    part = message.get("body", b"")
                    size += len(part)
                    self._check(size)
                    if size > self._taken:
                        self._take(size - self._taken)
                    parts.append(part)
                    more = message.get("more_body", False)
                    timeout.reschedule(self._latest(started, now(), size))
        except TimeoutError as error:
            close = {"connection": "close"}
            if self._exchange.held.load.is_high:  # then it may have waited for the service
                raise Problem("overloaded", "There are too many requests under way.", close) from error
            limits = self._limits
            detail = f"The body has to be here within {limits.body_timeout_s:g} seconds, at {limits.min_body_rate} B/s."
            raise Problem("body_timeout", detail, close) from error
        self._exchange.bytes_in = size
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _latest(self, started: float, last: float, size: int) -> float:
        """When the next part has to be here, of a body of which so much is, and the last of it came at `last`."""
        latest = started + self._limits.body_timeout_s
        if rate := self._limits.min_body_rate:
            latest = min(latest, started + GRACE_S + size / rate, last + PAUSE_S)
        return latest

    def drop(self) -> None:
        """Count it no more: nobody has it any longer."""
        self._exchange.held.give_back(self._taken)
        self._taken = 0

    def _check(self, size: int) -> None:
        if size > self._limits.max_body_bytes:
            raise Problem("body_too_large", f"A body may have {self._limits.max_body_bytes} bytes.")

    def _take(self, size: int) -> None:
        self._exchange.held.take(size)
        self._taken += size


def _has_body(headers: Headers) -> bool:
    return headers.get("content-length", "0") != "0" or "transfer-encoding" in headers


async def _send(problem: Problem, exchange: Exchange, send: Send) -> None:
    exchange.code = problem.code
    body = problem.body(exchange.id)
    headers = {"content-type": MEDIA_TYPE, "content-length": str(len(body)), **problem.headers}
    encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": problem.status, "headers": encoded})
    await send({"type": "http.response.body", "body": body})
