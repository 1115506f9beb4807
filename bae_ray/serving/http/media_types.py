"""Media types of bodies and answers."""

from collections.abc import Sequence
from typing import Final, Literal, TypeVar

from bae_ray.serving.http.problems import Problem

Media = Literal["application/json", "application/x-safetensors", "application/octet-stream"]
JSON: Final = "application/json"
SAFETENSORS: Final = "application/x-safetensors"
BYTES: Final = "application/octet-stream"
"""Containers of the codec that are not safetensors."""
HTML: Final = "text/html"
EVENTS: Final = "text/event-stream"
"""Server-sent events."""
M = TypeVar("M", bound=str)
MEDIA: tuple[Media, ...] = (JSON, SAFETENSORS)
"""Media types for arrays."""


def body_media(content_type: str | None, taken: tuple[Media, ...] = MEDIA) -> Media:
    """The media type of a body. Raises the problem `unsupported_media_type`."""
    name = (content_type or "").partition(";")[0].strip().lower()
    for media in taken:
        if name == media:
            return media
    raise Problem(
        "unsupported_media_type", f"The Content-Type has to be {' or '.join(taken)}.", {"accept": ", ".join(taken)}
    )


def answer_media(accept: str | None, preferred: Media) -> Media:
    """The media type of an answer that is arrays: see `chosen`."""
    return chosen(accept, (preferred, *(media for media in MEDIA if media != preferred)))


def chosen(accept: str | None, answers: Sequence[M]) -> M:
    """The media type with the largest weight in `accept`; of equals, and without `accept`, the first.

    Raises the problem `not_acceptable`.
    """
    if not accept or not accept.strip():
        return answers[0]
    weights = {media: _weight(accept, media) for media in answers}
    best = max(answers, key=lambda media: weights[media])
    if weights[best] <= 0:
        raise Problem("not_acceptable", f"The answer can be {' or '.join(answers)}.")
    return best


def prefers_html(accept: str | None) -> bool:
    """Whether `accept` prefers HTML, as browsers do."""
    return bool(accept) and _weight(accept, HTML) > max(_weight(accept, media) for media in MEDIA)


def _weight(accept: str, media: str) -> float:
    """The q of the most specific range that matches (RFC 9110, 12.5.1)."""
    ranges = {media: 2, f"{media.partition('/')[0]}/*": 1, "*/*": 0}
    found = (-1, 0.0)
    for item in accept.lower().split(","):
        name, *parameters = (part.strip() for part in item.split(";"))
        if name in ranges and ranges[name] > found[0]:
            q = next((p[2:] for p in parameters if p.startswith("q=")), "1")
            try:
                found = (ranges[name], float(q))
            except ValueError:
                found = (ranges[name], 0.0)
    return found[1]
