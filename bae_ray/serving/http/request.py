"""A request for an encoder: its body, the type of its answer, and the memory that both take."""

import asyncio
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, TypeVar

import numpy as np
from fastapi import Request, Response

from bae_ray.serving.http import media_types, responses, sizes
from bae_ray.serving.http.arrays import Style
from bae_ray.serving.http.bodies import vectors_of
from bae_ray.serving.http.exchange import Exchange, RequestBody
from bae_ray.serving.http.media_types import BYTES, JSON, MEDIA, SAFETENSORS, Media
from bae_ray.serving.http.problems import Problem
from bae_ray.serving.http.service import Service
from bae_ray.serving.registry.entry import Entry

INLINE_BYTES: dict[Media, int] = {JSON: 1 << 15, SAFETENSORS: 1 << 20, BYTES: 1 << 20}
"""Sizes that are read or written at once, in less than a millisecond. Larger ones are left to a thread."""

T = TypeVar("T")


class EncoderRequest:
    """A request, and the encoder that it is for."""

    entry: Entry
    d_in: int
    d_latent: int

    def __init__(self, service: Service, request: Request, takes_body: bool = True, takes_html: bool = False) -> None:
        """Raises `not_acceptable`."""
        self.exchange: Exchange = request.state.exchange
        self.limits = service.config.limits
        self._body: RequestBody = request.state.body
        self._request, self._parsing = request, service.parsing
        accept, given = request.headers.get("accept"), request.headers.get("content-type")
        preferred: Media = SAFETENSORS if takes_body and given and given.startswith((SAFETENSORS, BYTES)) else JSON
        self.html = takes_html and media_types.prefers_html(accept)
        self.answer: Media = JSON if self.html else media_types.answer_media(accept, preferred)

    @classmethod
    async def of(
        cls, service: Service, request: Request, encoder_id: str, takes_body: bool = True, takes_html: bool = False
    ) -> "EncoderRequest":
        """The request with its encoder.

        Raises `not_acceptable`, `encoder_not_found`, `not_allowed` and `encoder_broken`.
        """
        incoming = cls(service, request, takes_body, takes_html)
        incoming.entry = await service.entry(encoder_id, incoming.exchange.caller)
        incoming.exchange.encoder, incoming.exchange.version = incoming.entry.id, incoming.entry.version
        if incoming.entry.config is None:
            raise Problem("encoder_broken", incoming.entry.reason)
        incoming.d_in, incoming.d_latent = incoming.entry.config.widths()
        return incoming

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
