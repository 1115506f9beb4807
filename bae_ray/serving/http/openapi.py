"""How the API is described beyond what FastAPI knows: parameters of addresses, both media types, and every problem."""

from difflib import get_close_matches
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Path, Query, Request
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.responses import Response

from bae_ray.compression import TableChoice
from bae_ray.compression.config import SchemeChoice
from bae_ray.serving.http import effect_schemas, run_schemas, schemas
from bae_ray.serving.http.arrays import Style
from bae_ray.serving.http.media_types import BYTES, EVENTS, HTML, JSON, SAFETENSORS
from bae_ray.serving.http.problems import Problem, ProblemDetails, responses

EncoderId = Annotated[str, Path(description="The encoder's id, as /v1/encoders lists it.", examples=["layer10"])]
TopK = Annotated[int | None, Query(ge=1, description="Keep only this many features: the largest magnitudes.")]
Arrays = Annotated[Style, Query(description="How arrays look in a JSON answer.")]
Format = Annotated[
    Literal["packed", "indices", "magnitudes"],
    Query(
        description="packed: the code as bits. indices: the latents that fire. magnitudes: how strong each feature is "
        "(burstiness)."
    ),
]
SchemeOption = Annotated[
    SchemeChoice,
    Query(
        description="entropy codes every bit by its firing rate; tree codes every bit given the bit it depends on in "
        "the encoder's tree; auto is the smaller of the two. indices is the paper's list of bursty latents (A.5)."
    ),
]
Threshold = Annotated[
    float | None,
    Query(
        ge=-1, le=0, allow_inf_nan=False, description="indices: least burstiness, log2 |code - prior|, of a kept bit."
    ),
]
Fit = Annotated[bool, Query(description="Also give each token's reconstruction error and the bits of its code.")]
MOST_LISTED = 1000
Limit = Annotated[int, Query(ge=1, le=MOST_LISTED, description="Largest number of encoders on a page.")]
After = Annotated[str, Query(description="An id: only encoders whose ids come after it are listed.")]
Table = Annotated[
    TableChoice,
    Query(
        description="reference: the container refers to the encoder's firing rates or tree. embedded: it holds them, "
        "in safetensors, and can be read without the encoder."
    ),
]
Contents = Annotated[Literal["x", "packed"], Query(description="Activations, or codes as packed bits.")]
ALWAYS = (
    "no_key", "wrong_key", "malformed", "unsupported_coding", "invalid", "overloaded", "internal", "unavailable",
    "deadline",
)  # fmt: skip
OF_ENCODERS = ("not_acceptable", "encoder_not_found", "not_allowed", "encoder_broken")
OF_BODIES = (
    "body_timeout", "body_too_large", "too_many_rows", "answer_too_large", "unsupported_media_type", "wrong_width",
    "not_finite", "not_binary", "no_prior",
)  # fmt: skip
OF_ARRAYS = ("too_many_rows", "answer_too_large", "wrong_width", "not_binary", "no_prior")
"""Those of `OF_BODIES` that bodies without arrays do not have."""
BINARY = {"type": "string", "format": "binary"}
VERSION = {
    "X-Encoder-Version": {
        "description": "Version of the encoder that answered: `version` in the answer of GET for it.",
        "schema": {"type": "string"},
    }
}
NEXT = {
    "Link": {
        "description": 'If there are more: the address of the next page, with rel="next" (RFC 8288).',
        "schema": {"type": "string"},
    }
}
REFERENCE = "#/components/schemas/{model}"


async def check_parameters(request: Request) -> None:
    """Raise `invalid` for an unknown or repeated parameter of the query."""
    route: APIRoute = request.scope["route"]
    taken = [field.alias for field in route.dependant.query_params]
    given = [name for name, _ in request.query_params.multi_items()]
    for name in given:
        if name not in taken:
            near = get_close_matches(name.lower(), taken, n=3, cutoff=0.5)
            asked = f" Did you mean {' or '.join(near)}?" if near else ""
            listed = f"It takes {', '.join(taken)}." if taken else "It takes none."
            raise Problem("invalid", f"The query has a parameter that this address does not take.{asked} {listed}")
    for name in taken:
        if given.count(name) > 1:
            raise Problem("invalid", f"{name} is in the query more than once.")


class _Plain(Response):
    """An answer whose media types are in `responses` only."""

    media_type = None


def errors(*more: str, body: bool = True) -> tuple[str, ...]:
    """The problems that a route of an encoder may answer with."""
    return (*OF_ENCODERS, *(OF_BODIES if body else ("answer_too_large",)), *more)


def of_texts() -> tuple[str, ...]:
    """The problems of routes that have the language model do something with texts, and answer in JSON."""
    return (*OF_ENCODERS, *(code for code in OF_BODIES if code not in OF_ARRAYS), "no_language_model", "too_much_text")


def produces(
    model: type[BaseModel],
    *codes: str,
    html: bool = False,
    codec: bool = False,
    events: dict[str, type[BaseModel]] | None = None,
    headers: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """A route's answers: JSON of a model, safetensors where what it computes is arrays, and `html` for browsers.

    `events`: the models of the data of server-sent events, by the event's name.
    """
    content: dict[str, Any] = {JSON: {"schema": {"$ref": REFERENCE.format(model=model.__name__)}}}
    computed = "answer_too_large" in codes
    if computed:
        content[SAFETENSORS] = {"schema": BINARY}
    if codec:
        content[BYTES] = {"schema": BINARY}
    if html:
        content[HTML] = {"schema": {"type": "string"}}
    if events:
        content[EVENTS] = {"itemSchema": {"oneOf": [_event(name, data) for name, data in events.items()]}}
    answer: dict[str, Any] = {"description": (model.__doc__ or "").strip(), "content": content}
    if told := headers or (VERSION if "encoder_not_found" in codes else None):
        answer["headers"] = told
    known = codes if codes == ("not_ready",) else (*ALWAYS, *codes)
    return {"response_class": _Plain, "responses": {200: answer, **responses(*known)}}


def _event(name: str, data: type[BaseModel]) -> dict[str, Any]:
    """A server-sent event, as OpenAPI describes one: its fields are text."""
    content = {"$ref": REFERENCE.format(model=data.__name__)}
    return {
        "type": "object",
        "required": ["event", "data"],
        "properties": {
            "event": {"const": name},
            "data": {"type": "string", "contentMediaType": JSON, "contentSchema": content},
        },
    }


def takes(model: type[BaseModel], binary: bool = True, codec: bool = False) -> dict[str, Any]:
    """A route's body: JSON of a model, or safetensors, or a container of the codec."""
    content: dict[str, Any] = {JSON: {"schema": {"$ref": REFERENCE.format(model=model.__name__)}}}
    if binary:
        content[SAFETENSORS] = {"schema": BINARY}
    if codec:
        content[BYTES] = {"schema": BINARY}
    return {"openapi_extra": {"requestBody": {"required": True, "content": content}}}


def describe(app: FastAPI, needs_key: bool) -> dict[str, Any]:
    """The OpenAPI description of a service with or without keys."""
    if app.openapi_schema is None:
        made = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        models = [
            *dict.fromkeys(
                value
                for module in (schemas, effect_schemas, run_schemas)
                for value in (*vars(module).values(), ProblemDetails)
                if isinstance(value, type) and issubclass(value, BaseModel) and value not in (BaseModel, schemas.Schema)
            )
        ]
        _, definitions = models_json_schema(
            [(model, "serialization" if model.__name__.endswith("Answer") else "validation") for model in models],
            ref_template=REFERENCE,
        )
        components = made.setdefault("components", {})
        components["schemas"] = dict(sorted(definitions["$defs"].items()))
        components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        for path, item in made["paths"].items():
            for operation in item.values():
                operation["responses"].pop("422", None) if path in ("/livez", "/metrics") else None
                if path.startswith("/v1"):
                    operation["security"] = [{"key": []}] if needs_key else [{}, {"key": []}]
        app.openapi_schema = made
    return app.openapi_schema
