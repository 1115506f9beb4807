"""The routes: what is asked in HTTP's words, and answered in the same."""

import asyncio
import json
from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import Annotated, Any, Literal, TypeVar, cast

import numpy as np
from fastapi import APIRouter, FastAPI, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from bae_ray.compression import Scheme
from bae_ray.serving import answers, media, metrics
from bae_ray.serving import schemas as s
from bae_ray.serving.arrays import Style, read_json
from bae_ray.serving.bodies import coded_rows, container_of, texts_of, vectors_of
from bae_ray.serving.manners import Body, Exchange, GoneError
from bae_ray.serving.media import JSON, SAFETENSORS, Media
from bae_ray.serving.openapi import describe, errors, produces, takes
from bae_ray.serving.problems import MEDIA_TYPE, Problem
from bae_ray.serving.registry import Entry
from bae_ray.serving.service import Service

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
Contents = Annotated[Literal["x", "packed"], Query(description="Activations, or codes as packed bits.")]
DESCRIPTION = "Encode hidden states of a language model with Binary Autoencoders, decode them, and compress them."


T = TypeVar("T")
INLINE_BYTES = 1 << 15


class Asked:
    """A request for an encoder: who asks, for which, and what the answer may be."""

    def __init__(
        self, service: Service, request: Request, encoder_id: str | None = None, takes_body: bool = True
    ) -> None:
        self.exchange: Exchange = request.state.exchange
        self._body: Body = request.state.body
        self._request, self._service = request, service
        accept, given = request.headers.get("accept"), request.headers.get("content-type")
        preferred: Media = SAFETENSORS if takes_body and given and given.startswith(SAFETENSORS) else JSON
        self.answer: Media = media.answer_media(accept, preferred)
        if encoder_id is not None:
            self.entry: Entry = service.usable(encoder_id, self.exchange.caller)
            self.exchange.encoder = self.entry.id
            assert self.entry.config is not None
            self.d_in, self.d_latent = self.entry.config.widths()
        self.limits = service.config.limits

    async def body(self, *taken: Media) -> tuple[bytes, Media]:
        """The body and its type."""
        given = media.body_media(self._request.headers.get("content-type"))
        if given not in (taken or media.MEDIA):
            raise Problem("unsupported_media_type", f"The Content-Type has to be {' or '.join(taken)}.")
        return await self._body.read(), given


def create_app(service: Service) -> FastAPI:
    """The routes as an application, for `manners.Manners` around it."""
    app = FastAPI(
        title="bae_ray",
        version=version("bae-ray"),
        description=DESCRIPTION,
        redoc_url=None,
        generate_unique_id_function=lambda route: route.name,
        redirect_slashes=False,
    )
    for routes in (_registry, _codes, _codec, _texts, _health):
        app.include_router(routes(service))
    app.add_exception_handler(Problem, _problem)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(GoneError, _gone)
    app.add_exception_handler(Exception, _internal)
    app.openapi = lambda: describe(app)
    return app


def _registry(service: Service) -> APIRouter:
    router = APIRouter(tags=["encoders"])

    @router.get("/v1/encoders", **produces(s.EncoderList, "not_acceptable"))
    async def list_encoders(request: Request) -> Response:
        """The encoders that there are, broken ones included."""
        asked = Asked(service, request, takes_body=False)
        _json_only(request)
        caller = asked.exchange.caller
        listed = [entry for entry in service.registry.entries().values() if caller.may_use(entry.id)]
        found = s.EncoderList(encoders=[answers.info(entry, asked.limits) for entry in listed])
        return Response(found.model_dump_json(), media_type=JSON)

    @router.get(
        "/v1/encoders/{encoder_id}", **produces(s.EncoderInfo, "not_acceptable", "encoder_not_found", "not_allowed")
    )
    async def get_encoder(request: Request, encoder_id: EncoderId) -> Response:
        """What an encoder is, what was measured of it, and the limits of requests."""
        asked = Asked(service, request, takes_body=False)
        _json_only(request)
        entry = service.entry(encoder_id, asked.exchange.caller)
        return Response(answers.info(entry, asked.limits).model_dump_json(), media_type=JSON)

    @router.get("/v1/encoders/{encoder_id}/features/{index}",
                **produces(s.FeatureAnswer, *errors("feature_not_found", body=False)))  # fmt: skip
    async def get_feature(
        request: Request, encoder_id: EncoderId, index: Annotated[int, Path(ge=0)], arrays: Arrays = "nested"
    ) -> Response:
        """What the encoder says of a feature: how often it fires, its direction, and the features most like it."""
        asked = Asked(service, request, encoder_id, takes_body=False)
        if index >= (n := answers.n_features(asked.entry)):
            raise Problem("feature_not_found", f"The encoder has the features 0 to {n - 1}.")
        found = await service.call(asked.entry, "feature", index)
        made = {name: value for name, value in found.items() if isinstance(value, np.ndarray)}
        fields = {"encoder": asked.entry.id, "index": index, "firing_rate": found["firing_rate"]}
        return await _aside(_size(made), answers.arrays, made, fields, asked.answer, arrays, asked.limits)

    return router


def _codes(service: Service) -> APIRouter:
    router = APIRouter(tags=["encoders"])

    @router.post("/v1/encoders/{encoder_id}/encode", **takes(s.EncodeBody), **produces(s.EncodeAnswer, *errors()))
    async def encode(
        request: Request, encoder_id: EncoderId, format: Format = "packed", top_k: TopK = None,  # noqa: A002
        arrays: Arrays = "nested",
    ) -> Response:  # fmt: skip
        """Encode activations. In safetensors, the body's tensor is `x`, and the answer's are named as in JSON."""
        asked = Asked(service, request, encoder_id)
        operation = answers.operation(asked.entry, format, top_k)
        body, given = await asked.body()
        x = await _aside(len(body), vectors_of, body, given, asked.d_in, asked.limits)
        answers.check_size(asked.entry, operation, len(x), asked.limits)
        asked.exchange.rows = len(x)
        made = await service.compute(asked.entry, operation, x)
        fields = {"encoder": asked.entry.id, "d_latent": asked.d_latent, "format": format}
        return await _aside(
            _size(made), answers.encoded, made, fields, format, top_k, asked.answer, arrays, asked.limits
        )

    @router.post("/v1/encoders/{encoder_id}/decode", **takes(s.DecodeBody), **produces(s.DecodeAnswer, *errors()))
    async def decode(request: Request, encoder_id: EncoderId, arrays: Arrays = "nested") -> Response:
        """Reconstruct activations from packed codes, from the indices of the latents that fire, or from latents."""
        asked = Asked(service, request, encoder_id)
        body, given = await asked.body()
        operation, rows = await _aside(len(body), coded_rows, body, given, asked.entry, asked.limits)
        asked.exchange.rows = len(rows)
        made = await service.compute(asked.entry, operation, rows)
        return await _aside(
            _size(made), answers.arrays, made, {"encoder": asked.entry.id}, asked.answer, arrays, asked.limits
        )

    return router


def _codec(service: Service) -> APIRouter:
    router = APIRouter(tags=["compression"])

    @router.post("/v1/encoders/{encoder_id}/compress", **takes(s.EncodeBody), **produces(s.CompressAnswer, *errors()))
    async def compress(
        request: Request, encoder_id: EncoderId, scheme: SchemeOption = "entropy", threshold: Threshold = None
    ) -> Response:
        """Activations as a container of the codec. A container is safetensors: as such it is the answer itself."""
        asked = Asked(service, request, encoder_id)
        if not asked.entry.binary:
            raise Problem("not_binary", "This encoder's latents are real numbers: only codes can be compressed.")
        if threshold is not None and scheme != "indices":
            raise Problem("invalid", "threshold goes with the scheme indices.")
        body, given = await asked.body()
        x = await _aside(len(body), vectors_of, body, given, asked.d_in, asked.limits)
        asked.exchange.rows = len(x)
        data = await service.call(asked.entry, "compress", x, scheme, threshold)
        return answers.container(data, len(x), asked.entry, asked.answer)

    @router.post(
        "/v1/encoders/{encoder_id}/decompress",
        **takes(s.DecompressBody),
        **produces(s.DecompressAnswer, *errors("corrupt")),
    )
    async def decompress(
        request: Request,
        encoder_id: EncoderId,
        format: Contents = "x",  # noqa: A002
        arrays: Arrays = "nested",
    ) -> Response:
        """The activations in a container, or its codes."""
        asked = Asked(service, request, encoder_id)
        if not asked.entry.binary:
            raise Problem("not_binary", "This encoder's latents are real numbers: it has made no container.")
        body, given = await asked.body()
        data = await _aside(len(body), container_of, body, given, asked.entry, asked.limits)
        made = await service.call(asked.entry, "decompress", data, format == "packed")
        asked.exchange.rows = len(next(iter(made.values())))
        return await _aside(
            _size(made), answers.arrays, made, {"encoder": asked.entry.id}, asked.answer, arrays, asked.limits
        )

    return router


def _texts(service: Service) -> APIRouter:
    router = APIRouter(tags=["texts"])

    @router.post("/v1/encoders/{encoder_id}/texts/encode", **takes(s.TextsBody, binary=False),
                 **produces(s.TextsAnswer, *errors("no_language_model", "too_much_text")))  # fmt: skip
    async def encode_texts(request: Request, encoder_id: EncoderId, top_k: Annotated[int, Query(ge=1)] = 8) -> Response:
        """Run the encoder's own language model on texts: every token, where it is, and its top features."""
        asked = Asked(service, request, encoder_id, takes_body=False)
        operation = answers.operation(asked.entry, "magnitudes", top_k)
        if asked.entry.origin is None:
            raise Problem("no_language_model", "This encoder is not of a run, so that its language model is not known.")
        body, _ = await asked.body(JSON)
        found = await service.texts(asked.entry, texts_of(read_json(body), asked.limits))
        asked.exchange.rows = len(found.token_ids)
        answers.check_size(asked.entry, operation, len(found.token_ids), asked.limits)
        if len(found.token_ids) and found.x.shape[1] != asked.d_in:
            raise Problem("no_language_model", "The language model known by that name is not of the encoder's width.")
        empty = {"indices": np.empty((0, top_k), np.int32), "magnitudes": np.empty((0, top_k), np.float32)}
        made = await service.compute(asked.entry, operation, found.x) if len(found.token_ids) else empty
        return await _aside(_size(made) * 8, answers.texts, found, made, asked.entry, asked.answer, asked.limits)

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
        """Counts of the gateway's replica that answers, in Prometheus' format. Needs no key."""
        entries = service.registry.entries().values()
        ready = sum(entry.config is not None for entry in entries)
        return Response(service.metrics.page(ready, len(entries) - ready), media_type=metrics.CONTENT_TYPE)

    return router


async def _aside(size: int, function: Callable[..., T], *arguments: Any) -> T:
    """A call that takes as long as its data is large, in a thread, so that other requests are answered meanwhile."""
    return function(*arguments) if size < INLINE_BYTES else await asyncio.to_thread(function, *arguments)


def _size(made: Mapping[str, np.ndarray]) -> int:
    return sum(array.nbytes for array in made.values())


def _json_only(request: Request) -> None:
    if not media.accepts(request.headers.get("accept"), JSON):
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
    return await _problem(request, Problem(code, str(error.detail), dict(error.headers or {})))


async def _gone(_request: Request, _error: Exception) -> Response:
    return Response(status_code=499)  # nobody is there to read it


async def _internal(request: Request, _error: Exception) -> Response:
    detail = "Something went wrong here. The service's log has it under this request id."
    return await _problem(request, Problem("internal", detail))


if __name__ == "__main__":  # the description that is committed; no route is called, so that no service is needed
    print(json.dumps(create_app(cast(Service, None)).openapi(), indent=1))
