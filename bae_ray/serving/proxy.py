"""A middleware for Serve's own proxy, which sends nothing where a gateway's replica dies under a request.

Its HTTP server then says 500. What it means is 503: send the request again. The service's own errors are answers, and
pass through.
"""

from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bae_ray.serving.problems import MEDIA_TYPE, Problem

LOST = "The replica that had this request went away. Send the request again."


class LostReplicas:
    """Around the proxy."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        answered = False

        async def answer(message: Message) -> None:
            nonlocal answered
            answered = True
            await send(message)

        await self._app(scope, receive, answer)
        if scope["type"] == "http" and not answered:
            problem = Problem("unavailable", LOST)
            body = problem.body(Headers(scope=scope).get("x-request-id", ""))
            headers = {"content-type": MEDIA_TYPE, "content-length": str(len(body)), **problem.headers}
            raw = [(name.encode(), value.encode()) for name, value in headers.items()]
            await send({"type": "http.response.start", "status": problem.status, "headers": raw})
            await send({"type": "http.response.body", "body": body})


def middlewares() -> list[Middleware]:
    """What Serve puts around its proxy: named by RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH."""
    return [Middleware(LostReplicas)]
