"""The routes texts/steer and texts/fidelity: what features do to the encoder's language model."""

import json
import logging
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.sse import EventSourceResponse, format_sse_event
from pydantic import BaseModel

from bae_ray.fidelity.text_fidelity import TextFidelity, pooled
from bae_ray.serving.compute.interface import WrittenText, WrittenToken
from bae_ray.serving.http import effect_schemas as s
from bae_ray.serving.http.media_types import EVENTS, JSON
from bae_ray.serving.http.openapi import EncoderId, of_texts, produces, takes
from bae_ray.serving.http.problems import INTERNAL, Problem, ProblemDetails
from bae_ray.serving.http.request import EncoderRequest, Exchange
from bae_ray.serving.http.service import Service
from bae_ray.serving.http.steering_bodies import fidelity_of, steering_of

Parts = AsyncIterator[list[WrittenToken] | list[WrittenText]]
HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}
"""So that what stands between passes on each event as it comes."""

STEERED: dict[str, type[BaseModel]] = {"token": s.SteerToken, "end": s.SteerAnswer, "problem": ProblemDetails}
"""The events of steering, and what their data are."""

log = logging.getLogger("ray.serve")


def effects(service: Service) -> APIRouter:
    """The routes."""
    router = APIRouter(tags=["texts"])

    @router.post("/v1/encoders/{encoder_id}/texts/steer", **takes(s.SteerBody, binary=False),
                 **produces(s.SteerAnswer, *of_texts(), events=STEERED))  # fmt: skip
    async def steer_text(request: Request, encoder_id: EncoderId) -> Response:
        """Let the encoder's own language model continue a text: with features added, clamped or ablated, and without.

        The answer is a stream of server-sent events: `token` (of each continuation in turn), and last `end` with the
        whole answer, or `problem`. `Accept: application/json` asks for the whole answer only. Generation stops when the
        client disconnects.
        """
        incoming = await EncoderRequest.of(service, request, encoder_id, answers=(EVENTS, JSON))
        about = incoming.about_model()
        text, steering = await incoming.parsed(steering_of, incoming.entry, incoming.limits, taken=(JSON,))
        incoming.keep(len(text), 1)
        parts = service.steered(incoming.entry, text, steering)
        if incoming.accepted == JSON:
            return Response(await _whole(parts, about), media_type=JSON)
        first = await anext(parts)  # what is wrong with the request is known now, and its own answer
        return EventSourceResponse(_events(first, parts, about, incoming.exchange), headers=HEADERS)

    @router.post("/v1/encoders/{encoder_id}/texts/fidelity", **takes(s.FidelityBody, binary=False),
                 **produces(s.FidelityAnswer, *of_texts()))  # fmt: skip
    async def measure_fidelity(request: Request, encoder_id: EncoderId) -> Response:
        """What the encoder's language model still predicts if the reconstruction replaces the texts' activations.

        For comparison also with the training mean, and with zeros, in their place. On texts that the encoder was
        trained on, the reconstruction is better than on others.
        """
        incoming = await EncoderRequest.of(service, request, encoder_id, answers=(JSON,))
        about = incoming.about_model()
        texts, first = await incoming.parsed(fidelity_of, incoming.limits, taken=(JSON,))
        incoming.keep(sum(map(len, texts)), len(texts))
        found = await service.fidelity(incoming.entry, texts, first)
        assert incoming.entry.origin is not None
        answer = s.FidelityAnswer(
            **about,
            position=incoming.entry.origin.position,
            all=_fidelity(pooled(found)),
            texts=[_fidelity(text) for text in found],
        )
        return Response(answer.model_dump_json(), media_type=JSON)

    return router


async def _whole(parts: Parts, about: dict[str, Any]) -> str:
    """The answer, once all of it is written."""
    *_, written = [part async for part in parts]
    return _answer(written, about).model_dump_json()


async def _events(first: Any, parts: Parts, about: dict[str, Any], exchange: Exchange) -> AsyncIterator[bytes]:
    """The events of an answer; `first` has come already."""
    try:
        async with aclosing(parts):  # pyright: ignore[reportArgumentType] - it is a generator
            for event in _told(first, about):
                yield event
            async for part in parts:
                for event in _told(part, about):
                    yield event
    except Problem as problem:
        yield _failed(problem, exchange)
    except Exception:
        log.exception(f"request {exchange.id} failed")
        yield _failed(Problem("internal", INTERNAL), exchange)


def _failed(problem: Problem, exchange: Exchange) -> bytes:
    exchange.code = problem.code
    return format_sse_event(event="problem", data_str=problem.body(exchange.id).decode())


def _told(part: list[WrittenToken] | list[WrittenText], about: dict[str, Any]) -> list[bytes]:
    tokens = [one for one in part if isinstance(one, WrittenToken)]
    if not tokens:
        return [_event("end", _answer(part, about))]
    return [_event("token", s.SteerToken(**token._asdict())) for token in tokens]


def _event(name: str, data: BaseModel) -> bytes:
    # In ASCII: of the characters that end a line for some readers, JSON escapes only two by itself.
    return format_sse_event(event=name, data_str=json.dumps(data.model_dump()))


def _answer(written: list[Any], about: dict[str, Any]) -> s.SteerAnswer:
    sides = {text.side: s.Continuation(text=text.text, token_ids=text.token_ids, ended=text.ended) for text in written}
    return s.SteerAnswer.model_validate({**about, **sides})


def _fidelity(found: TextFidelity) -> s.Fidelity:
    return s.Fidelity(**found._asdict(), ce_recovered=found.ce_recovered, ce_recovered_mean=found.ce_recovered_mean)
