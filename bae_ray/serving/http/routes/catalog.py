"""The registry: the list of encoders, and what is known of an encoder and its features."""

import asyncio
from typing import Annotated

import numpy as np
from fastapi import APIRouter, Path, Request, Response

from bae_ray.serving.http import feature_cards, media_types, responses
from bae_ray.serving.http import schemas as s
from bae_ray.serving.http.media_types import JSON
from bae_ray.serving.http.openapi import NEXT, errors, produces
from bae_ray.serving.http.parameters import MOST_LISTED, After, Arrays, EncoderId, Limit
from bae_ray.serving.http.problems import Problem
from bae_ray.serving.http.request import EncoderRequest
from bae_ray.serving.http.service import Service


def catalog(service: Service) -> APIRouter:
    """Routes of the list, of an encoder, and of its features."""
    router = APIRouter(tags=["encoders"])

    @router.get("/v1/encoders", **produces(s.EncoderList, "not_acceptable", headers=NEXT))
    async def list_encoders(request: Request, limit: Limit = MOST_LISTED, after: After = "") -> Response:
        """The encoders that the key is for, broken ones included, in the order of their ids."""
        incoming = EncoderRequest(service, request, takes_body=False)
        _json_only(request)
        caller = incoming.exchange.caller
        known = await service.entries()
        ids = sorted(encoder_id for encoder_id in known if encoder_id > after and caller.may_use(encoder_id))
        shown, more = ids[:limit], len(ids) > limit
        found = await asyncio.to_thread(responses.listing, [known[i] for i in shown], incoming.limits, more)
        place = f"{request.scope.get('root_path', '')}/v1/encoders?limit={limit}&after={shown[-1]}" if more else ""
        return Response(found, media_type=JSON, headers={"link": f'<{place}>; rel="next"'} if more else {})

    @router.get(
        "/v1/encoders/{encoder_id}", **produces(s.EncoderInfo, "not_acceptable", "encoder_not_found", "not_allowed")
    )
    async def get_encoder(request: Request, encoder_id: EncoderId) -> Response:
        """What an encoder is, what was measured of it, and the limits of requests."""
        incoming = EncoderRequest(service, request, takes_body=False)
        _json_only(request)
        entry = await service.entry(encoder_id, incoming.exchange.caller)
        incoming.exchange.encoder, incoming.exchange.version = entry.id, entry.version
        return Response(responses.info(entry, incoming.limits).model_dump_json(), media_type=JSON)

    @router.get("/v1/encoders/{encoder_id}/features/{index}",
                **produces(s.FeatureAnswer, *errors("feature_not_found", body=False), html=True))  # fmt: skip
    async def get_feature(
        request: Request, encoder_id: EncoderId, index: Annotated[int, Path(ge=0)], arrays: Arrays = "nested"
    ) -> Response:
        """What the encoder says of a feature, and its card where ComSem has named it; in a browser the card alone."""
        incoming = await EncoderRequest.of(service, request, encoder_id, takes_body=False, takes_html=True)
        if index >= (n := incoming.entry.n_features):
            raise Problem("feature_not_found", f"The encoder has the features 0 to {n - 1}.")
        if incoming.html:
            return await feature_cards.find_page(incoming.entry, index)
        found = await service.call(incoming.entry, "feature", index)
        made = {name: value for name, value in found.items() if isinstance(value, np.ndarray)}
        fields = {"encoder": incoming.entry.id, "index": index, "firing_rate": found["firing_rate"]}
        fields["card"] = await feature_cards.find_record(incoming.entry, index)
        incoming.expect(made, arrays)
        return responses.arrays(made, fields, incoming.answer, arrays)

    return router


def _json_only(request: Request) -> None:
    if not media_types.accepts(request.headers.get("accept"), JSON):
        raise Problem("not_acceptable", f"The answer is {JSON}.")
