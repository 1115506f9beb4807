"""Errors as answers: RFC 9457 problem details with a stable code and the request's id."""

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from pydantic import BaseModel, Field
from starlette.types import Send

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_S = 1
INTERNAL = "Something went wrong here. The service's log has it under this request id."


class Kind(NamedTuple):
    """The status and title of a code."""

    status: int
    title: str


KINDS = {
    "malformed": Kind(400, "The body or a header cannot be read"),
    "no_key": Kind(401, "A bearer key is needed"),
    "wrong_key": Kind(401, "The bearer key is not known"),
    "not_allowed": Kind(403, "This key may not use this encoder"),
    "not_found": Kind(404, "There is nothing at this address"),
    "encoder_not_found": Kind(404, "No such encoder"),
    "feature_not_found": Kind(404, "No such feature"),
    "method_not_allowed": Kind(405, "This address takes other methods"),
    "not_acceptable": Kind(406, "None of the accepted media types can be given"),
    "body_timeout": Kind(408, "The body did not come in in time"),
    "body_too_large": Kind(413, "The body is too large"),
    "too_many_rows": Kind(413, "There are too many rows"),
    "too_much_text": Kind(413, "There is too much text"),
    "answer_too_large": Kind(413, "The answer would be too large"),
    "unsupported_media_type": Kind(415, "The body's media type is not taken"),
    "unsupported_coding": Kind(415, "The body's coding is not taken"),
    "invalid": Kind(422, "A value cannot be what it is"),
    "wrong_width": Kind(422, "The vectors do not have the encoder's width"),
    "not_finite": Kind(422, "There are numbers that are NaN or infinite"),
    "not_binary": Kind(422, "The encoder has no binary code"),
    "no_prior": Kind(422, "The encoder has no firing rates to measure magnitudes by"),
    "no_tree": Kind(422, "The encoder has no tree over its latents"),
    "no_language_model": Kind(422, "The encoder's language model is not known here"),
    "corrupt": Kind(422, "The compressed data is damaged, or of another encoder"),
    "overloaded": Kind(429, "There is more to do than can be done now"),
    "internal": Kind(500, "An error of the service"),
    "encoder_broken": Kind(503, "The encoder's files cannot be used"),
    "unavailable": Kind(503, "The encoder cannot be reached now"),
    "not_ready": Kind(503, "The service is not ready"),
    "deadline": Kind(504, "The answer took too long"),
}
"""All codes. They are stable: clients may rely on them."""


class Problem(Exception):  # noqa: N818 - RFC 9457's word
    """An error that becomes the answer. Its detail never repeats what the client sent."""

    def __init__(self, code: str, detail: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(detail)
        self.code, self.detail = code, detail
        self.status, self.title = KINDS[code]
        self.headers = dict(headers or {})
        if self.status == 429 or code in ("unavailable", "not_ready"):
            self.headers.setdefault("retry-after", str(RETRY_AFTER_S))

    def body(self, request_id: str) -> bytes:
        """The answer's body."""
        problem = {
            "type": f"urn:bae-ray:problem:{self.code}",
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            "code": self.code,
            "request_id": request_id,
        }
        return json.dumps(problem).encode()

    async def send(self, request_id: str, send: Send, more: Mapping[str, str] = MappingProxyType({})) -> None:
        """Answer with it; `more`: further headers."""
        body = self.body(request_id)
        headers = {"content-type": MEDIA_TYPE, "content-length": str(len(body)), **more, **self.headers}
        raw = [(name.encode(), value.encode("latin-1", "replace")) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": self.status, "headers": raw})
        await send({"type": "http.response.body", "body": body})


class ProblemDetails(BaseModel):
    """RFC 9457 problem details."""

    type: str = Field(examples=["urn:bae-ray:problem:wrong_width"])
    title: str
    status: int
    detail: str
    code: str = Field(description="Stable name of the kind of error.")
    request_id: str = Field(description="Also in the header X-Request-ID and in the service's log.")


def responses(*codes: str) -> dict[int | str, dict[str, Any]]:
    """The description of these codes for OpenAPI."""
    by_status: dict[int | str, list[str]] = {}
    for code in codes:
        by_status.setdefault(KINDS[code].status, []).append(code)
    return {
        status: {
            "description": "; ".join(f"`{code}`: {KINDS[code].title}" for code in listed),
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemDetails"}}},
        }
        for status, listed in sorted(by_status.items(), key=lambda item: str(item[0]))
    }
