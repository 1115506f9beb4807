"""What happens to every request, whatever its route: request id, key, limits, log, errors as problems.

Plain ASGI, since it has to see bodies before anything reads them.
"""

import logging
import re
import time
import uuid
from typing import Any

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bae_ray.serving.config import LimitsConfig
from bae_ray.serving.http.keys import ANYONE, Caller, KeyFile, Keys
from bae_ray.serving.http.limits import HeldMemory, Load, Quotas
from bae_ray.serving.http.problems import Problem
from bae_ray.serving.http.request import Exchange, RequestBody
from bae_ray.serving.monitoring.counts import Metrics

REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
OPEN = ("/livez", "/readyz", "/metrics", "/docs", "/workbench", "/openapi.json", "/")
OPEN_BELOW = ("/docs/", "/workbench/")
"""Paths that need no key, and those below which everything does not."""
HEADER = b"x-request-id"
VERSION_HEADER = b"x-encoder-version"
"""The encoder's version, in answers about an encoder."""

log = logging.getLogger("ray.serve")


class RequestMiddleware:
    """An ASGI application around the routes."""

    def __init__(self, app: ASGIApp, keys: Keys | KeyFile, limits: LimitsConfig, metrics: Metrics) -> None:
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
        exchange = Exchange(request_id, scope["method"], ANYONE, HeldMemory(self._load))
        if exchange.method == "HEAD":  # all that GET answers with, but for the body
            scope = {**scope, "method": "GET"}
        body = RequestBody(receive, headers, self._limits, exchange)
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
        """Send the routes' answer, or a problem."""
        exchange: Exchange = scope["state"]["exchange"]
        is_taken = False
        try:
            if not _is_open(scope["path"].removeprefix(scope.get("root_path", "")) or "/"):
                exchange.caller = self._caller(headers)
                exchange.source = exchange.caller.name if self._keys else _address(scope)
                self._quotas.enter(exchange.caller)
                is_taken = True
                if exchange.method == "POST" and _has_body(headers):
                    self._load.check()  # it counts once its body is there: a slow body keeps no replica busy
                else:
                    exchange.enter()
            _check_coding(headers)
            await self._app(scope, receive, send)
        except Problem as problem:
            exchange.code = problem.code
            await problem.send(exchange.id, send)
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
        """Count the request, and log it without anything of its body."""
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


def _address(scope: Scope) -> str:
    client = scope.get("client")
    return client[0] if client else ""


def _is_open(path: str) -> bool:
    return path in OPEN or path.startswith(OPEN_BELOW)


def _check_coding(headers: Headers) -> None:
    """Raise `unsupported_coding` for a compressed body: its size would not limit its content."""
    given = ",".join(headers.getlist("content-encoding"))
    if {coding.strip().lower() for coding in given.split(",")} - {"", "identity"}:
        detail = "Send the body as it is: without the header Content-Encoding, or with `identity`."
        raise Problem("unsupported_coding", detail, {"accept-encoding": "identity"})


def _has_body(headers: Headers) -> bool:
    return headers.get("content-length", "0") != "0" or "transfer-encoding" in headers
