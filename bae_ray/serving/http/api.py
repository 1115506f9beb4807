"""The routes: what is asked in HTTP's words, and answered in the same."""

import asyncio
import json
from collections.abc import Mapping
from importlib.metadata import version
from types import MappingProxyType
from typing import Annotated, Any, Literal, cast

import numpy as np
from fastapi import APIRouter, Depends, FastAPI, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from bae_ray.compression import Scheme, TableChoice
from bae_ray.serving.compute.operations import Operation
from bae_ray.serving.http import feature_cards, media_types, responses, sizes
from bae_ray.serving.http import schemas as s
from bae_ray.serving.http.arrays import Style
from bae_ray.serving.http.bodies import coded_rows, container_of, texts_of
from bae_ray.serving.http.docs_page import docs
from bae_ray.serving.http.media_types import BYTES, JSON, MEDIA
from bae_ray.serving.http.middleware import Exchange, GoneError
from bae_ray.serving.http.openapi import NEXT, describe, errors, produces, takes
from bae_ray.serving.http.parameters import check_parameters
from bae_ray.serving.http.problems import MEDIA_TYPE, Problem
from bae_ray.serving.http.request import Asked, aside
from bae_ray.serving.http.service import Service
from bae_ray.serving.monitoring.scrape import CONTENT_TYPE

EncoderId = Annotated[str, Path(description="The encoder's id, as /v1/encoders lists it.", examples=["layer10"])]
TopK = Annotated[int | None, Query(ge=1, description="Keep the so many features of the largest magnitude.")]
Arrays = Annotated[Style, Query(description="How arrays look in a JSON answer.")]
Format = Annotated[
    Literal["packed", "indices", "magnitudes"],
    Query(description="The code as bits, the latents that fire, or how strongly each feature is present (burstiness)."),
]
SchemeOption = Annotated[
    Scheme, Query(description="entropy keeps every bit; indices is the paper's list of the bursty latents (A.5).")
]
Threshold = Annotated[
    float | None, Query(ge=-1, le=0, allow_inf_nan=False, description="indices: least burstiness, log2 |code - prior|.")
]
MOST_LISTED = 1000
Limit = Annotated[int, Query(ge=1, le=MOST_LISTED, description="Encoders of a page, at most.")]
After = Annotated[str, Query(description="An id: only encoders whose ids come after it are listed.")]
Table = Annotated[
    TableChoice,
    Query(
        description="reference: the container refers to the encoder's firing rates. embedded: it holds them, is "
        "safetensors, and its codes can be read without the encoder."
    ),
]
Contents = Annotated[Literal["x", "packed"], Query(description="Activations, or codes as packed bits.")]
DESCRIPTION = "Encode hidden states of a language model with Binary Autoencoders, decode them, and compress them."


def create_app(service: Service, needs_key: bool = True) -> FastAPI:
    """The routes as an application, for `manners.Manners` around it, which may ask for keys."""
    app = FastAPI(
        title="bae_ray",
        version=version("bae-ray"),
        description=DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        generate_unique_id_function=lambda route: route.name,
        redirect_slashes=False,
    )
    for routes in (_registry, _codes, _codec, _texts):
        app.include_router(routes(service), dependencies=[Depends(check_parameters)])
    app.include_router(_health(service))  # probes and scrapers may have parameters of their own
    app.include_router(docs())
    app.add_exception_handler(Problem, _problem)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(GoneError, _gone)
    app.add_exception_handler(Exception, _internal)
    app.openapi = lambda: describe(app, needs_key)
    return app


def _registry(service: Service) -> APIRouter:
    router = APIRouter(tags=["encoders"])

    @router.get("/v1/encoders", **produces(s.EncoderList, "not_acceptable", headers=NEXT))
    async def list_encoders(request: Request, limit: Limit = MOST_LISTED, after: After = "") -> Response:
        """The encoders that the key is for, broken ones included, in the order of their ids."""
        asked = Asked(service, request, takes_body=False)
        _json_only(request)
        caller = asked.exchange.caller
        known = await service.entries()
        ids = sorted(encoder_id for encoder_id in known if encoder_id > after and caller.may_use(encoder_id))
        shown, more = ids[:limit], len(ids) > limit
        found = await asyncio.to_thread(responses.listing, [known[i] for i in shown], asked.limits, more)
        place = f"{request.scope.get('root_path', '')}/v1/encoders?limit={limit}&after={shown[-1]}" if more else ""
        return Response(found, media_type=JSON, headers={"link": f'<{place}>; rel="next"'} if more else {})

    @router.get(
        "/v1/encoders/{encoder_id}", **produces(s.EncoderInfo, "not_acceptable", "encoder_not_found", "not_allowed")
    )
    async def get_encoder(request: Request, encoder_id: EncoderId) -> Response:
        """What an encoder is, what was measured of it, and the limits of requests."""
        asked = Asked(service, request, takes_body=False)
        _json_only(request)
        entry = await service.entry(encoder_id, asked.exchange.caller)
        asked.exchange.encoder, asked.exchange.version = entry.id, entry.version
        return Response(responses.info(entry, asked.limits).model_dump_json(), media_type=JSON)

    @router.get("/v1/encoders/{encoder_id}/features/{index}",
                **produces(s.FeatureAnswer, *errors("feature_not_found", body=False), html=True))  # fmt: skip
    async def get_feature(
        request: Request, encoder_id: EncoderId, index: Annotated[int, Path(ge=0)], arrays: Arrays = "nested"
    ) -> Response:
        """What the encoder says of a feature, and its card where ComSem has named it; in a browser the card alone."""
        asked = await Asked.of(service, request, encoder_id, takes_body=False, takes_html=True)
        if index >= (n := asked.entry.n_features):
            raise Problem("feature_not_found", f"The encoder has the features 0 to {n - 1}.")
        if asked.html:
            return await asyncio.to_thread(feature_cards.find_page, asked.entry, index)
        found = await service.call(asked.entry, "feature", index)
        made = {name: value for name, value in found.items() if isinstance(value, np.ndarray)}
        fields = {"encoder": asked.entry.id, "index": index, "firing_rate": found["firing_rate"]}
        fields["card"] = await asyncio.to_thread(feature_cards.find_record, asked.entry, index)
        asked.expect(made, arrays)
        return responses.arrays(made, fields, asked.answer, arrays)

    return router


def _codes(service: Service) -> APIRouter:
    router = APIRouter(tags=["encoders"])

    @router.post("/v1/encoders/{encoder_id}/encode", **takes(s.EncodeBody), **produces(s.EncodeAnswer, *errors()))
    async def encode(
        request: Request, encoder_id: EncoderId, format: Format = "packed", top_k: TopK = None,  # noqa: A002
        arrays: Arrays = "nested",
    ) -> Response:  # fmt: skip
        """Encode activations. In safetensors, the body's tensor is `x`, and the answer's are named as in JSON."""
        asked = await Asked.of(service, request, encoder_id)
        operation = responses.operation(asked.entry, format, top_k)
        x = await asked.vectors()
        fires = operation.name == "pack" and format == "indices"
        planned = sizes.planned(asked.entry, operation, len(x))
        if format == "indices" and not fires:
            planned = {"indices": planned["indices"]}
        asked.expect(planned, "base64" if fires else arrays)
        made = await service.compute(asked.entry, operation, x)
        fields = {"d_latent": asked.d_latent, "format": format, **({"top_k": top_k} if top_k is not None else {})}
        if fires:
            code = made["code"]
            listed = sizes.listed(code)
            asked.expect(listed, arrays)
            call = (
                responses.indices,
                code,
                asked.d_latent,
                {"encoder": asked.entry.id, **fields},
                asked.answer,
                arrays,
            )
            return await aside(asked.answer, sizes.held(listed) + 8 * code.size, *call)
        made = {name: made[name] for name in planned}
        return await _arrays(asked, made, arrays, fields)

    @router.post("/v1/encoders/{encoder_id}/decode", **takes(s.DecodeBody), **produces(s.DecodeAnswer, *errors()))
    async def decode(request: Request, encoder_id: EncoderId, arrays: Arrays = "nested") -> Response:
        """Reconstruct activations from packed codes, from the indices of the latents that fire, or from latents."""
        asked = await Asked.of(service, request, encoder_id)
        operation, rows = await asked.parsed(coded_rows, asked.entry, asked.limits)
        asked.keep(rows.nbytes, len(rows))
        asked.expect(sizes.planned(asked.entry, operation, len(rows)), arrays)
        made = await service.compute(asked.entry, operation, rows)
        return await _arrays(asked, made, arrays)

    return router


def _codec(service: Service) -> APIRouter:
    router = APIRouter(tags=["compression"])

    @router.post("/v1/encoders/{encoder_id}/compress", **takes(s.EncodeBody),
                 **produces(s.CompressAnswer, *errors(), codec=True))  # fmt: skip
    async def compress(
        request: Request, encoder_id: EncoderId, scheme: SchemeOption = "entropy", threshold: Threshold = None,
        table: Table = "reference",
    ) -> Response:  # fmt: skip
        """Activations as a container of the codec: the answer itself, or in JSON as base64.

        It is safetensors with `table=embedded`, else bytes of its own format (application/octet-stream); `Accept:
        application/x-safetensors` asks for either.
        """
        asked = await Asked.of(service, request, encoder_id)
        if not asked.entry.binary:
            raise Problem("not_binary", "This encoder's latents are real numbers: only codes can be compressed.")
        if threshold is not None and scheme != "indices":
            raise Problem("invalid", "threshold goes with the scheme indices.")
        if threshold is not None and asked.entry.lacks_prior:
            raise Problem("no_prior", "This encoder came without firing rates, by which a threshold is measured.")
        x = await asked.vectors()
        data = await service.call(asked.entry, "compress", x, scheme, threshold, table)
        asked.expect_bytes(sizes.written_bytes(len(data), asked.answer))
        return await aside(asked.answer, len(data), responses.container, data, len(x), asked.entry, asked.answer)

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
        asked = await Asked.of(service, request, encoder_id)
        if not asked.entry.binary:
            raise Problem("not_binary", "This encoder's latents are real numbers: it has made no container.")
        data, rows = await asked.parsed(container_of, asked.d_latent, asked.limits, taken=(*MEDIA, BYTES))
        asked.keep(len(data), rows)
        packed = format == "packed"
        asked.expect(sizes.planned(asked.entry, Operation("pack" if packed else "decode"), rows), arrays)
        made = await service.call(asked.entry, "decompress", data, packed)
        return await _arrays(asked, made, arrays)

    return router


def _texts(service: Service) -> APIRouter:
    router = APIRouter(tags=["texts"])

    @router.post("/v1/encoders/{encoder_id}/texts/encode", **takes(s.TextsBody, binary=False),
                 **produces(s.TextsAnswer, *errors("no_language_model", "too_much_text")))  # fmt: skip
    async def encode_texts(request: Request, encoder_id: EncoderId, top_k: Annotated[int, Query(ge=1)] = 8) -> Response:
        """Run the encoder's own language model on texts: every token, where it is, and its top features."""
        asked = await Asked.of(service, request, encoder_id, takes_body=False)
        operation = responses.operation(asked.entry, "magnitudes", top_k)
        if asked.entry.origin is None:
            raise Problem("no_language_model", "This encoder is not of a run, so that its language model is not known.")
        texts = await asked.parsed(texts_of, asked.limits, taken=(JSON,))
        most = sizes.most_tokens(asked.d_in, top_k, asked.answer, asked.limits)
        async with service.deadline(asks_texts=True):  # one for the language model and the encoder together
            found = await service.texts(asked.entry, texts, most)
            n = len(found.token_ids)
            if n and found.x.shape[1] != asked.d_in:
                raise Problem("no_language_model", "The language model of that name is not of the encoder's width.")
            asked.keep(found.x.nbytes, n)
            asked.expect_bytes(n * sizes.token_bytes(top_k, asked.answer))
            planned = sizes.planned(asked.entry, operation, n)
            made = await service.compute(asked.entry, operation, found.x) if n else planned
        return await aside(JSON, sizes.held(made) * 8, responses.texts, found, made, asked.entry, asked.answer)

    return router


def _health(service: Service) -> APIRouter:
    router = APIRouter(tags=["operations"])

    @router.get("/livez", response_model=s.Alive)
    async def livez() -> s.Alive:
        """Whether the gateway runs. Needs no key."""
        return s.Alive()

    @router.get("/readyz", **produces(s.Alive, "not_ready"))
    async def readyz() -> Response:
        """Whether encoders can be asked. Needs no key."""
        await service.check_ready()
        return Response(s.Alive().model_dump_json(), media_type=JSON)

    @router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def get_metrics() -> Response:
        """Counts of all replicas, in Prometheus' format, whichever of the gateway's is asked. Needs no key."""
        return Response(await service.scrape.page(await service.entries()), media_type=CONTENT_TYPE)

    return router


async def _arrays(
    asked: Asked, made: dict[str, np.ndarray], style: Style, fields: Mapping[str, Any] = MappingProxyType({})
) -> Response:
    """The answer of what was computed for an encoder."""
    about = {"encoder": asked.entry.id, **fields}
    return await aside(asked.answer, sizes.held(made), responses.arrays, made, about, asked.answer, style)


def _json_only(request: Request) -> None:
    if not media_types.accepts(request.headers.get("accept"), JSON):
        raise Problem("not_acceptable", f"The answer is {JSON}.")


async def _problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    exchange: Exchange = request.state.exchange
    exchange.code = error.code
    return Response(error.body(exchange.id), error.status, error.headers, MEDIA_TYPE)


async def _invalid(request: Request, error: Exception) -> Response:
    """A parameter that is not what it should be: its place and what was expected, not what was sent."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = " ".join(str(part) for part in first["loc"] if not isinstance(part, int))
    return await _problem(request, Problem("invalid", f"{where}: {first['msg']}."))


async def _http(request: Request, error: Exception) -> Response:
    """Starlette's own errors: no such route, or not with this method."""
    assert isinstance(error, HTTPException)
    codes = {404: "not_found", 405: "method_not_allowed"}
    code = codes.get(error.status_code, "malformed")
    headers = dict(error.headers or {})
    if headers.get("Allow") == "GET":
        headers["Allow"] = "GET, HEAD"
    return await _problem(request, Problem(code, str(error.detail), headers))


async def _gone(_request: Request, _error: Exception) -> Response:
    return Response(status_code=499)  # nobody is there to read it


async def _internal(request: Request, _error: Exception) -> Response:
    detail = "Something went wrong here. The service's log has it under this request id."
    return await _problem(request, Problem("internal", detail))


if __name__ == "__main__":  # the description that is committed; no route is called, so that no service is needed
    print(json.dumps(create_app(cast(Service, None)).openapi(), indent=1))
