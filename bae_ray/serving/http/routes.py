"""The routes, by what they are about: the registry, codes, containers, texts, and the service itself."""

import asyncio
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Path, Query, Request, Response

from bae_ray.serving.compute.interface import Operation
from bae_ray.serving.http import feature_cards, media_types, responses, sizes
from bae_ray.serving.http import schemas as s
from bae_ray.serving.http.bodies import coded_rows, container_of, texts_of
from bae_ray.serving.http.media_types import BYTES, JSON, MEDIA
from bae_ray.serving.http.openapi import (
    MOST_LISTED,
    NEXT,
    After,
    Arrays,
    Contents,
    EncoderId,
    Fit,
    Format,
    Limit,
    SchemeOption,
    Table,
    Threshold,
    TopK,
    errors,
    produces,
    takes,
)
from bae_ray.serving.http.problems import Problem
from bae_ray.serving.http.request import EncoderRequest, aside
from bae_ray.serving.http.service import Service
from bae_ray.serving.monitoring.scrape import CONTENT_TYPE


def catalog(service: Service) -> APIRouter:
    """Routes of the list, of an encoder, and of its features."""
    router = APIRouter(tags=["encoders"])

    @router.get("/v1/encoders", **produces(s.EncoderList, "not_acceptable", headers=NEXT))
    async def list_encoders(request: Request, limit: Limit = MOST_LISTED, after: After = "") -> Response:
        """The encoders that the key may use, broken ones included, in the order of their ids."""
        incoming = EncoderRequest(service, request, takes_body=False)
        media_types.chosen(request.headers.get("accept"), (JSON,))
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
        """An encoder's description, its measures, and the limits of requests."""
        incoming = EncoderRequest(service, request, takes_body=False)
        media_types.chosen(request.headers.get("accept"), (JSON,))
        entry = await service.entry(encoder_id, incoming.exchange.caller)
        incoming.exchange.encoder, incoming.exchange.version = entry.id, entry.version
        return Response(responses.info(entry, incoming.limits).model_dump_json(), media_type=JSON)

    @router.get("/v1/encoders/{encoder_id}/features/{index}",
                **produces(s.FeatureAnswer, *errors("feature_not_found", body=False), html=True))  # fmt: skip
    async def get_feature(
        request: Request, encoder_id: EncoderId, index: Annotated[int, Path(ge=0)], arrays: Arrays = "nested"
    ) -> Response:
        """A feature, and its card if ComSem has named it. A browser gets the card only."""
        incoming = await EncoderRequest.of(service, request, encoder_id, takes_body=False, takes_html=True)
        if index >= (n := incoming.entry.n_features):
            raise Problem("feature_not_found", f"The encoder has the features 0 to {n - 1}.")
        if incoming.html:
            return await feature_cards.find_page(incoming.entry, index)
        found = await service.call(incoming.entry, "feature", index)
        made = {name: value for name, value in found.items() if isinstance(value, np.ndarray)}
        fields: dict[str, Any] = {"encoder": incoming.entry.id, "index": index, "firing_rate": found["firing_rate"]}
        card = await feature_cards.find_card(incoming.entry, index)
        fields["card"] = card and card.record
        fields |= {"details": card and card.shown, "judge": card and card.about.get("judge")}
        incoming.expect(made, arrays)
        return responses.arrays(made, fields, incoming.answer, arrays)

    return router


def codes(service: Service) -> APIRouter:
    """The routes encode and decode."""
    router = APIRouter(tags=["encoders"])

    @router.post("/v1/encoders/{encoder_id}/encode", **takes(s.EncodeBody), **produces(s.EncodeAnswer, *errors()))
    async def encode(
        request: Request, encoder_id: EncoderId, format: Format = "packed", top_k: TopK = None,  # noqa: A002
        arrays: Arrays = "nested",
    ) -> Response:  # fmt: skip
        """Encode activations. In safetensors, the body's tensor is `x`; the answer's tensors are named as in JSON."""
        incoming = await EncoderRequest.of(service, request, encoder_id)
        operation = responses.operation(incoming.entry, format, top_k)
        x = await incoming.vectors()
        fires = operation.name == "pack" and format == "indices"
        planned = sizes.planned(incoming.entry, operation, len(x))
        if format == "indices" and not fires:
            planned = {"indices": planned["indices"]}
        incoming.expect(planned, "base64" if fires else arrays)
        made = await service.compute(incoming.entry, operation, x)
        fields = {"d_latent": incoming.d_latent, "format": format, **({"top_k": top_k} if top_k is not None else {})}
        if fires:
            code = made["code"]
            listed = sizes.listed(code)
            incoming.expect(listed, arrays)
            about = {"encoder": incoming.entry.id, **fields}
            call = (responses.indices, code, incoming.d_latent, about, incoming.answer, arrays)
            return await aside(incoming.answer, sizes.held(listed) + 8 * code.size, *call)
        made = {name: made[name] for name in planned}
        return await incoming.arrays(made, arrays, fields)

    @router.post("/v1/encoders/{encoder_id}/decode", **takes(s.DecodeBody), **produces(s.DecodeAnswer, *errors()))
    async def decode(request: Request, encoder_id: EncoderId, arrays: Arrays = "nested") -> Response:
        """Reconstruct activations from packed codes, from the indices of the latents that fire, or from latents."""
        incoming = await EncoderRequest.of(service, request, encoder_id)
        operation, rows = await incoming.parsed(coded_rows, incoming.entry, incoming.limits)
        incoming.keep(rows.nbytes, len(rows))
        incoming.expect(sizes.planned(incoming.entry, operation, len(rows)), arrays)
        made = await service.compute(incoming.entry, operation, rows)
        return await incoming.arrays(made, arrays)

    return router


def compressed(service: Service) -> APIRouter:
    """The routes compress and decompress."""
    router = APIRouter(tags=["compression"])

    @router.post("/v1/encoders/{encoder_id}/compress", **takes(s.EncodeBody),
                 **produces(s.CompressAnswer, *errors("no_tree"), codec=True))  # fmt: skip
    async def compress(
        request: Request, encoder_id: EncoderId, scheme: SchemeOption = "entropy", threshold: Threshold = None,
        table: Table = "reference",
    ) -> Response:  # fmt: skip
        """Compress activations into a container: the answer itself, or base64 in JSON.

        With `table=embedded` the container is safetensors, else bytes of its own format (application/octet-stream).
        `Accept: application/x-safetensors` asks for either.
        """
        incoming = await EncoderRequest.of(service, request, encoder_id)
        if not incoming.entry.binary:
            raise Problem("not_binary", "This encoder's latents are real numbers: only codes can be compressed.")
        if threshold is not None and scheme != "indices":
            raise Problem("invalid", "threshold goes with the scheme indices.")
        if threshold is not None and incoming.entry.lacks_prior:
            raise Problem("no_prior", "This encoder came without firing rates, by which a threshold is measured.")
        if scheme == "tree" and not incoming.entry.has_tree:
            raise Problem(
                "no_tree", "This encoder came without a tree over its latents. Ask for scheme=entropy, or auto."
            )
        x = await incoming.vectors()
        data = await service.call(incoming.entry, "compress", x, scheme, threshold, table)
        incoming.expect_bytes(sizes.written_bytes(len(data), incoming.answer))
        return await aside(
            incoming.answer, len(data), responses.container, data, len(x), incoming.entry, incoming.answer
        )

    @router.post(
        "/v1/encoders/{encoder_id}/decompress",
        **takes(s.DecompressBody, codec=True),
        **produces(s.DecompressAnswer, *errors("corrupt")),
    )
    async def decompress(
        request: Request,
        encoder_id: EncoderId,
        format: Contents = "x",  # noqa: A002
        arrays: Arrays = "nested",
    ) -> Response:
        """The activations in a container, or its codes."""
        incoming = await EncoderRequest.of(service, request, encoder_id)
        if not incoming.entry.binary:
            raise Problem("not_binary", "This encoder's latents are real numbers: it has made no container.")
        data, rows = await incoming.parsed(container_of, incoming.d_latent, incoming.limits, taken=(*MEDIA, BYTES))
        incoming.keep(len(data), rows)
        packed = format == "packed"
        incoming.expect(sizes.planned(incoming.entry, Operation("pack" if packed else "decode"), rows), arrays)
        made = await service.call(incoming.entry, "decompress", data, packed)
        return await incoming.arrays(made, arrays)

    return router


def tokens(service: Service) -> APIRouter:
    """The route texts/encode."""
    router = APIRouter(tags=["texts"])

    @router.post("/v1/encoders/{encoder_id}/texts/encode", **takes(s.TextsBody, binary=False),
                 **produces(s.TextsAnswer, *errors("no_language_model", "too_much_text")))  # fmt: skip
    async def encode_texts(
        request: Request, encoder_id: EncoderId, top_k: Annotated[int, Query(ge=1)] = 8, fit: Fit = False
    ) -> Response:
        """Run the encoder's own language model on texts: every token, its place in the text, and its top features."""
        incoming = await EncoderRequest.of(service, request, encoder_id, takes_body=False)
        operation = responses.operation(incoming.entry, "magnitudes", top_k)
        about = incoming.about_model()
        texts = await incoming.parsed(texts_of, incoming.limits, taken=(JSON,))
        most = sizes.most_tokens(incoming.d_in, top_k, incoming.answer, incoming.limits, fit)
        async with service.deadline(asks_texts=True):  # one for the language model and the encoder together
            found = await service.texts(incoming.entry, texts, most)
            n = len(found.token_ids)
            if n and found.x.shape[1] != incoming.d_in:
                raise Problem("no_language_model", "The language model of that name is not of the encoder's width.")
            incoming.keep(found.x.nbytes, n)
            incoming.expect_bytes(n * sizes.token_bytes(top_k, incoming.answer, fit))
            planned = sizes.planned(incoming.entry, operation, n)
            made = await service.compute(incoming.entry, operation, found.x) if n else planned
            if fit and n:
                made = {**made} | await service.compute(incoming.entry, Operation("fit"), found.x)
        return await aside(JSON, sizes.held(made) * 8, responses.texts, found, made, about, incoming.answer)

    return router


def health(service: Service) -> APIRouter:
    """The routes livez, readyz and metrics."""
    router = APIRouter(tags=["operations"])

    @router.get("/livez", response_model=s.Alive)
    async def livez() -> s.Alive:
        """Whether the gateway runs. Needs no key."""
        return s.Alive()

    @router.get("/readyz", **produces(s.Alive, "not_ready"))
    async def readyz() -> Response:
        """Whether encoders are ready for requests. Needs no key."""
        await service.check_ready()
        return Response(s.Alive().model_dump_json(), media_type=JSON)

    @router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def get_metrics() -> Response:
        """Counts of all replicas, in Prometheus' format; every replica of the gateway gives the same. Needs no key."""
        return Response(await service.scrape.page(await service.entries()), media_type=CONTENT_TYPE)

    return router
