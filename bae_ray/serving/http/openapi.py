"""The OpenAPI description beyond what FastAPI knows: both media types, and every problem."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.responses import Response

from bae_ray.serving.http import schemas
from bae_ray.serving.http.media_types import BYTES, HTML, JSON, SAFETENSORS
from bae_ray.serving.http.problems import ProblemDetails, responses

ALWAYS = (
    "no_key", "wrong_key", "malformed", "unsupported_coding", "invalid", "overloaded", "internal", "unavailable",
    "deadline",
)  # fmt: skip
OF_ENCODERS = ("not_acceptable", "encoder_not_found", "not_allowed", "encoder_broken")
OF_BODIES = (
    "body_timeout", "body_too_large", "too_many_rows", "answer_too_large", "unsupported_media_type", "wrong_width",
    "not_finite", "not_binary", "no_prior",
)  # fmt: skip
BINARY = {"type": "string", "format": "binary"}
VERSION = {
    "X-Encoder-Version": {
        "description": "Which encoder went by the id: `version` of what GET says of it.",
        "schema": {"type": "string"},
    }
}
NEXT = {
    "Link": {
        "description": 'Where there are more: the address of the next page, with rel="next" (RFC 8288).',
        "schema": {"type": "string"},
    }
}
REFERENCE = "#/components/schemas/{model}"


class _Plain(Response):
    """An answer whose media types are in `responses` only."""

    media_type = None


def errors(*more: str, body: bool = True) -> tuple[str, ...]:
    """The problems that a route of an encoder may answer with."""
    return (*OF_ENCODERS, *(OF_BODIES if body else ("answer_too_large",)), *more)


def produces(
    model: type[BaseModel],
    *codes: str,
    html: bool = False,
    codec: bool = False,
    headers: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """A route's answers: JSON of a model, safetensors where what it computes is arrays, and `html` for browsers."""
    content: dict[str, Any] = {JSON: {"schema": {"$ref": REFERENCE.format(model=model.__name__)}}}
    computed = "answer_too_large" in codes
    if computed:
        content[SAFETENSORS] = {"schema": BINARY}
    if codec:
        content[BYTES] = {"schema": BINARY}
    if html:
        content[HTML] = {"schema": {"type": "string"}}
    answer: dict[str, Any] = {"description": (model.__doc__ or "").strip(), "content": content}
    if told := headers or (VERSION if computed else None):
        answer["headers"] = told
    known = codes if codes == ("not_ready",) else (*ALWAYS, *codes)
    return {"response_class": _Plain, "responses": {200: answer, **responses(*known)}}


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
            value
            for value in (*vars(schemas).values(), ProblemDetails)
            if isinstance(value, type) and issubclass(value, BaseModel) and not value.__name__.startswith("_")
            and value is not BaseModel
        ]  # fmt: skip
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
