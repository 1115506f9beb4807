"""Texts to the features of their tokens."""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from bae_ray.serving.http import responses, sizes
from bae_ray.serving.http import schemas as s
from bae_ray.serving.http.bodies import texts_of
from bae_ray.serving.http.media_types import JSON
from bae_ray.serving.http.openapi import errors, produces, takes
from bae_ray.serving.http.parameters import EncoderId
from bae_ray.serving.http.problems import Problem
from bae_ray.serving.http.request import EncoderRequest, aside
from bae_ray.serving.http.service import Service


def tokens(service: Service) -> APIRouter:
    """The route texts/encode."""
    router = APIRouter(tags=["texts"])

    @router.post("/v1/encoders/{encoder_id}/texts/encode", **takes(s.TextsBody, binary=False),
                 **produces(s.TextsAnswer, *errors("no_language_model", "too_much_text")))  # fmt: skip
    async def encode_texts(request: Request, encoder_id: EncoderId, top_k: Annotated[int, Query(ge=1)] = 8) -> Response:
        """Run the encoder's own language model on texts: every token, where it is, and its top features."""
        incoming = await EncoderRequest.of(service, request, encoder_id, takes_body=False)
        operation = responses.operation(incoming.entry, "magnitudes", top_k)
        if incoming.entry.origin is None:
            raise Problem("no_language_model", "This encoder is not of a run, so that its language model is not known.")
        texts = await incoming.parsed(texts_of, incoming.limits, taken=(JSON,))
        most = sizes.most_tokens(incoming.d_in, top_k, incoming.answer, incoming.limits)
        async with service.deadline(asks_texts=True):  # one for the language model and the encoder together
            found = await service.texts(incoming.entry, texts, most)
            n = len(found.token_ids)
            if n and found.x.shape[1] != incoming.d_in:
                raise Problem("no_language_model", "The language model of that name is not of the encoder's width.")
            incoming.keep(found.x.nbytes, n)
            incoming.expect_bytes(n * sizes.token_bytes(top_k, incoming.answer))
            planned = sizes.planned(incoming.entry, operation, n)
            made = await service.compute(incoming.entry, operation, found.x) if n else planned
        return await aside(JSON, sizes.held(made) * 8, responses.texts, found, made, incoming.entry, incoming.answer)

    return router
