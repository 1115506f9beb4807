"""A request under way: what the log and the metrics need to know, and its body, read once, within the limits."""

import asyncio

from ray.exceptions import RayActorError
from starlette.datastructures import Headers
from starlette.types import Receive

from bae_ray.serving.config import LimitsConfig
from bae_ray.serving.http.keys import Caller
from bae_ray.serving.http.limits import Arrival, HeldMemory
from bae_ray.serving.http.problems import Problem

PAUSE_S = 10.0
"""Seconds that a client may pause within a body."""
GRACE_S = 5.0
"""Seconds before the rate of a body counts."""


class Exchange:
    """A request under way."""

    def __init__(self, request_id: str, method: str, caller: Caller, held: HeldMemory) -> None:
        self.id, self.method, self.caller, self.held = request_id, method, caller, held
        self.source = caller.name
        """Whose share of the waiting requests it uses: the key's, or without keys the address's."""
        self.encoder: str | None = None
        self.version: str | None = None
        self.rows = 0
        self.bytes_in = 0
        self.bytes_out = 0
        self.status = 499  # nginx's status for a client that went away
        self.code: str | None = None
        self._is_counted = False

    def enter(self) -> None:
        """Count the request as worked on, once. Raises `overloaded`."""
        if not self._is_counted:
            self.held.load.enter()
            self._is_counted = True

    def leave(self) -> None:
        """Count the request out, and release its memory."""
        self.held.give_back()
        if self._is_counted:
            self.held.load.leave()


class ClientGoneError(Exception):
    """The client closed the connection before its body was read."""


class RequestBody:
    """The body of one request."""

    def __init__(self, receive: Receive, headers: Headers, limits: LimitsConfig, exchange: Exchange) -> None:
        self._receive, self._limits, self._exchange = receive, limits, exchange
        self._length = headers.get("content-length", "")
        self._taken = 0

    async def read(self) -> bytes:
        """Read all of it; from then on the request is worked on.

        Raises `body_too_large`, `body_timeout` and `overloaded`, before the rest is read.
        """
        arrival = Arrival(self._exchange.source, asyncio.get_running_loop().time())
        with self._exchange.held.load.waiting(arrival):
            body = await self._read(arrival)
        self._exchange.enter()
        return body

    async def _read(self, arrival: Arrival) -> bytes:
        announced = int(self._length) if self._length.isdecimal() else 0
        self._check(announced)
        self._exchange.held.load.check(announced)  # it is counted as it comes: who only announces holds nothing
        parts: list[bytes] = []
        size, started, now = 0, arrival.started, asyncio.get_running_loop().time
        try:
            async with asyncio.timeout_at(self._latest(started, started, size)) as timeout:
                more = True
                while more:
                    try:
                        message = await self._receive()
                    except RayActorError as error:  # of Serve's proxy, which has the connection
                        raise ClientGoneError from error
                    if message["type"] == "http.disconnect":
                        raise ClientGoneError
                    part = message.get("body", b"")
                    size += len(part)
                    arrival.size = size
                    self._check(size)
                    if size > self._taken:
                        self._take(size - self._taken)
                    parts.append(part)
                    more = message.get("more_body", False)
                    timeout.reschedule(self._latest(started, now(), size))
        except TimeoutError as error:
            close = {"connection": "close"}
            if self._exchange.held.load.is_busy(now()):  # then it may have waited for the service
                raise Problem("overloaded", "There are too many requests under way.", close) from error
            limits = self._limits
            detail = f"The body has to be here within {limits.body_timeout_s:g} seconds, at {limits.min_body_rate} B/s."
            raise Problem("body_timeout", detail, close) from error
        self._exchange.bytes_in = size
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _latest(self, started: float, last: float, size: int) -> float:
        """The deadline of the next part, if `size` bytes are here and the last part came at `last`."""
        latest = started + self._limits.body_timeout_s
        if rate := self._limits.min_body_rate:
            latest = min(latest, started + GRACE_S + size / rate, last + PAUSE_S)
        return latest

    def drop(self) -> None:
        """Release the memory of the body."""
        self._exchange.held.give_back(self._taken)
        self._taken = 0

    def _check(self, size: int) -> None:
        if size > self._limits.max_body_bytes:
            raise Problem("body_too_large", f"A body may have {self._limits.max_body_bytes} bytes.")

    def _take(self, size: int) -> None:
        self._exchange.held.take(size)
        self._taken += size
