"""A time limit that uvicorn, the server of Serve's proxy, lacks: it waits for the head of a request without end."""

import asyncio

from typing_extensions import override
from uvicorn.protocols.http import auto
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_S = 10.0
"""Seconds for the head of a request, and for the rest of a body that has been answered already."""


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
