"""A middleware for Serve's own proxy, whose answers are not the service's: they become problems too.

The proxy sends nothing where a gateway's replica dies under a request, and its HTTP server then says 500; what it means
is 503: send the request again. What it says itself, before a request reaches the service (nothing is deployed, no
replica is up, too much waits, it took too long), is plain text. Its 404 is not the address': the service has them all,
its route being "/", and says itself what it does not know. The service's own errors are problems and pass through; so
do those of other applications in the same Serve, such as the judge, whose errors are JSON.
"""

import uuid

from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bae_ray.serving.http.problems import MEDIA_TYPE, Problem
from bae_ray.serving.ray_serve.connections import limit_connections

LOST = "The replica that had this request went away. Send the request again."
MEANT = {
    404: ("unavailable", "The service is not deployed yet, or is being taken away."),
    408: ("deadline", "The answer took longer than the proxy waits for one."),
    429: ("overloaded", "There are too many requests waiting."),
    503: ("unavailable", "No replica of the service can take this request now."),
    504: ("deadline", "The answer took longer than the proxy waits for one."),
}
"""What the proxy means by a status; by any other one, that a replica was lost."""
PLAIN = "text/plain"
OWN = "/-/"
"""Begins the proxy's own addresses, of its health and routes."""


class Proxied:
    """Around the proxy."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        if scope["type"] != "http" or scope["path"].startswith(OWN):
            await self._app(scope, receive, send)
            return
        status, is_answered = 0, False
        request_id = Headers(scope=scope).get("x-request-id")

        async def answer(message: Message) -> None:
            nonlocal status, is_answered, request_id
            if message["type"] == "http.response.start":
                status, headers = message["status"], Headers(raw=message["headers"])
                request_id = headers.get("x-request-id", request_id)
                is_answered = status < 400 or not headers.get("content-type", PLAIN).startswith(PLAIN)
            if is_answered:
                await send(message)

        await self._app(scope, receive, answer)
        if not is_answered:
            problem = Problem(*MEANT.get(status, ("unavailable", LOST)))
            await _say(problem, request_id or uuid.uuid4().hex, send)


async def _say(problem: Problem, request_id: str, send: Send) -> None:
    body = problem.body(request_id)
    headers = {
        "content-type": MEDIA_TYPE,
        "content-length": str(len(body)),
        "x-request-id": request_id,
        **problem.headers,
    }
    raw = [(name.encode(), value.encode("latin-1", "replace")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": problem.status, "headers": raw})
    await send({"type": "http.response.body", "body": body})


def middlewares() -> list[Middleware]:
    """What Serve puts around its proxy, whose server starts after it: RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH."""
    limit_connections()
    return [Middleware(Proxied)]
