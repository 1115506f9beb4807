"""A middleware for Serve's own proxy, which answers 500 in plain text where a gateway's replica dies under a request.

The service's own answers are problems, 500 included. So a 500 that is none is the proxy's, and is said as the 503 that
it means: send the request again.
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
        replaced = False

        async def answer(message: Message) -> None:
            nonlocal replaced
            if message["type"] == "http.response.start" and message["status"] == 500:
                headers = Headers(raw=message["headers"])
                if headers.get("content-type") != MEDIA_TYPE:
                    replaced = True
                    problem = Problem("unavailable", LOST)
                    body = problem.body(Headers(scope=scope).get("x-request-id", ""))
                    sent = {"content-type": MEDIA_TYPE, "content-length": str(len(body)), **problem.headers}
                    raw = [(name.encode(), value.encode()) for name, value in sent.items()]
                    await send({"type": "http.response.start", "status": problem.status, "headers": raw})
                    await send({"type": "http.response.body", "body": body})
            if not replaced:
                await send(message)

        await self._app(scope, receive, answer if scope["type"] == "http" else send)


def middlewares() -> list[Middleware]:
    """What Serve puts around its proxy: named by RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH."""
    return [Middleware(LostReplicas)]
