"""A middleware for Serve's own proxy, whose answers are not the service's: they become problems too.

The proxy sends nothing where a gateway's replica dies under a request, and its HTTP server then says 500; what it means
is 503: send the request again. What it says itself, before a request reaches an application (nothing is deployed, no
replica is up, too much waits, it took too long), is plain text. Its 404 does not mean that the address is unknown: the
service has all addresses, its route being "/", and says itself what it does not know. Answers of applications pass
through: the service's errors are problems, and those of others in the same Serve, such as the judge, are as they are.
"""

import asyncio
import uuid

from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from typing_extensions import override
from uvicorn.protocols.http import auto
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from bae_ray.serving.http.problems import Problem

LOST = "The replica that had this request went away. Send the request again."
MEANT = {
    404: ("unavailable", "The service is not deployed yet, or is being taken away."),
    408: ("deadline", "The answer took longer than the proxy waits for one."),
    429: ("overloaded", "There are too many requests waiting."),
    503: ("unavailable", "No replica of the service can take this request now."),
    504: ("deadline", "The answer took longer than the proxy waits for one."),
}
"""The problem for each status of the proxy; any other status means that a replica was lost."""
PLAIN = "text/plain"
ROUTES = b"/-/routes"
"""What the body of the proxy's own 404 names, and another application's does not."""
OWN = "/-/"
"""Prefix of the proxy's own addresses: health and routes."""
HEAD_S = 10.0
"""Seconds for the head of a request, and for the rest of a body that has been answered already."""


class Proxied:
    """The middleware."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        if scope["type"] != "http" or scope["path"].startswith(OWN):
            await self._app(scope, receive, send)
            return
        status, is_answered = 0, False
        held: Message | None = None
        request_id = Headers(scope=scope).get("x-request-id")

        async def answer(message: Message) -> None:
            nonlocal status, is_answered, held, request_id
            if message["type"] == "http.response.start":
                status, request_id = message["status"], Headers(raw=message["headers"]).get("x-request-id", request_id)
                is_answered = not _may_be_the_proxys(message)
                held = message if status == 404 and not is_answered else None
            elif held is not None:
                is_answered = ROUTES not in message.get("body", b"")
                if is_answered:
                    await send(held)
                held = None
            if is_answered:
                await send(message)

        await self._app(scope, receive, answer)
        if not is_answered:
            problem = Problem(*MEANT.get(status, ("unavailable", LOST)))
            request_id = request_id or uuid.uuid4().hex
            await problem.send(request_id, send, {"x-request-id": request_id})


def _may_be_the_proxys(start: Message) -> bool:
    """Whether an answer may be the proxy's own: an error in plain text without Content-Length."""
    headers = Headers(raw=start["headers"])
    text = headers.get("content-type", PLAIN).startswith(PLAIN)
    return start["status"] >= 400 and text and "content-length" not in headers


def middlewares() -> list[Middleware]:
    """The middlewares of Serve's proxy, called before it starts: RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH."""
    limit_connections()
    return [Middleware(Proxied)]


class TimedProtocol(HttpToolsProtocol):
    """A connection that is closed if a head, or the rest of an unread body, does not come in time."""

    _timer: asyncio.TimerHandle | None = None

    @override
    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        super().connection_made(transport)
        self._arm()

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._disarm()

    @override
    def on_message_begin(self) -> None:
        super().on_message_begin()
        if self._timer is None:
            self._arm()

    @override
    def on_headers_complete(self) -> None:
        self._disarm()
        super().on_headers_complete()

    @override
    def on_message_complete(self) -> None:
        self._disarm()
        super().on_message_complete()

    @override
    def on_response_complete(self) -> None:
        if self.cycle.more_body:
            self._arm()
        super().on_response_complete()

    def _arm(self) -> None:
        self._disarm()
        self._timer = self.loop.call_later(HEAD_S, self.transport.close)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def limit_connections() -> None:
    """Use `TimedProtocol` for all servers that uvicorn starts in this process from now on."""
    auto.AutoHTTPProtocol = TimedProtocol
