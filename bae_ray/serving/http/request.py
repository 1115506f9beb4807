"""A request under way: its body, read once within the limits, the type of its answer, and the memory of both."""

import asyncio
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, TypeVar

import numpy as np
from fastapi import Request, Response
from ray.exceptions import RayActorError
from starlette.datastructures import Headers
from starlette.types import Receive

from bae_ray.serving.config import LimitsConfig
from bae_ray.serving.http import media_types, responses, sizes
from bae_ray.serving.http.arrays import Style
from bae_ray.serving.http.bodies import vectors_of
from bae_ray.serving.http.keys import Caller
from bae_ray.serving.http.limits import Arrival, HeldMemory
from bae_ray.serving.http.media_types import BYTES, JSON, MEDIA, SAFETENSORS, Media
from bae_ray.serving.http.problems import Problem
from bae_ray.serving.http.service import Service
from bae_ray.serving.registry.entry import Entry

PAUSE_S = 10.0
"""Seconds that a client may pause within a body."""
GRACE_S = 5.0
"""Seconds before the rate of a body counts."""
INLINE_BYTES: dict[Media, int] = {JSON: 1 << 15, SAFETENSORS: 1 << 20, BYTES: 1 << 20}
"""Sizes that are read or written at once, in less than a millisecond. Larger ones are left to a thread."""
T = TypeVar("T")


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


class EncoderRequest:
    """A request, and the encoder that it is for."""

    entry: Entry
    d_in: int
    d_latent: int

    def __init__(
        self,
        service: Service,
        request: Request,
        takes_body: bool = True,
        takes_html: bool = False,
        answers: tuple[str, ...] | None = None,
    ) -> None:
        """`answers`: the media types of answers that are no arrays, of which `accepted` is one.

        Raises `not_acceptable`.
        """
        self.exchange: Exchange = request.state.exchange
        self.limits = service.config.limits
        self._body: RequestBody = request.state.body
        self._request, self._parsing = request, service.parsing
        accept, given = request.headers.get("accept"), request.headers.get("content-type")
        preferred: Media = SAFETENSORS if takes_body and given and given.startswith((SAFETENSORS, BYTES)) else JSON
        self.html = takes_html and media_types.prefers_html(accept)
        self.accepted = media_types.chosen(accept, answers) if answers else None
        self.answer: Media = JSON if self.html or answers else media_types.answer_media(accept, preferred)

    @classmethod
    async def of(
        cls,
        service: Service,
        request: Request,
        encoder_id: str,
        takes_body: bool = True,
        takes_html: bool = False,
        answers: tuple[str, ...] | None = None,
    ) -> "EncoderRequest":
        """The request with its encoder.

        Raises `not_acceptable`, `encoder_not_found`, `not_allowed` and `encoder_broken`.
        """
        incoming = cls(service, request, takes_body, takes_html, answers)
        incoming.entry = await service.entry(encoder_id, incoming.exchange.caller)
        incoming.exchange.encoder, incoming.exchange.version = incoming.entry.id, incoming.entry.version
        if incoming.entry.config is None:
            raise Problem("encoder_broken", incoming.entry.reason)
        incoming.d_in, incoming.d_latent = incoming.entry.config.widths()
        return incoming

    def about_model(self) -> dict[str, Any]:
        """What answers about texts say of the encoder. Raises `no_language_model` where its model is not known."""
        if (origin := self.entry.origin) is None:
            raise Problem("no_language_model", "This encoder is not of a run, so that its language model is not known.")
        return {"encoder": self.entry.id, "model": origin.model, "layer": origin.layer, "site": origin.site}

    async def vectors(self) -> np.ndarray:
        """The activations [N, D] of the body. From now on they are counted in place of the body."""
        x = await self.parsed(vectors_of, self.d_in, self.limits, quick=True)
        self.keep(x.nbytes, len(x))
        return x

    async def parsed(
        self, parse: Callable[..., T], *arguments: Any, taken: tuple[Media, ...] = MEDIA, quick: bool = False
    ) -> T:
        """Parse the body: `parse(body, media, *arguments)`. `quick`: safetensors are parsed as fast as copied."""
        given = media_types.body_media(self._request.headers.get("content-type"), taken)
        body = await self._body.read()
        call = (given if quick else JSON, len(body), parse, body, given, *arguments)
        if given != JSON or len(body) < INLINE_BYTES[JSON]:
            return await aside(*call)
        async with self._parsing:
            return await aside(*call)

    def keep(self, size: int, rows: int) -> None:
        """Count the parsed rows, `size` bytes, in place of the body, which is released."""
        self.exchange.rows = rows
        self._body.drop()
        self.exchange.held.take(size)

    def expect(self, arrays: sizes.Arrays, style: Style) -> None:
        """Count the memory of an answer before it is made. Raises `answer_too_large` and `overloaded`."""
        size = sizes.written(arrays, self.answer, style)
        sizes.check(size, self.limits)
        self.exchange.held.take(sizes.held(arrays) + size)

    def expect_bytes(self, size: int) -> None:
        """The same for an answer in bytes: before and after it is written."""
        sizes.check(size, self.limits)
        self.exchange.held.take(2 * size)

    async def arrays(
        self, made: dict[str, np.ndarray], style: Style, fields: Mapping[str, Any] = MappingProxyType({})
    ) -> Response:
        """The response of arrays that were computed with the encoder."""
        about = {"encoder": self.entry.id, **fields}
        return await aside(self.answer, sizes.held(made), responses.arrays, made, about, self.answer, style)


async def aside(media: Media, size: int, function: Callable[..., T], *arguments: Any) -> T:
    """Call a function whose time grows with `size`; a long call runs in a thread, beside other requests.

    If the client goes away, the thread is still waited for: it holds the memory that is counted for this request.
    """
    if size < INLINE_BYTES[media]:
        return function(*arguments)
    thread = asyncio.ensure_future(asyncio.to_thread(function, *arguments))
    try:
        return await asyncio.shield(thread)
    except asyncio.CancelledError:
        await asyncio.gather(thread, return_exceptions=True)
        raise
