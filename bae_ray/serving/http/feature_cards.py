"""Cards of features, which ComSem has named, as the service gives them."""

import logging
from collections.abc import Callable
from functools import lru_cache
from typing import Any, TypeVar

from starlette.responses import HTMLResponse, Response

from bae_ray.report.card_file import CARDS_FILE, Card, read_card
from bae_ray.serving.http.problems import Problem
from bae_ray.serving.registry.entry import Entry

POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
"""A card asks for nothing but itself."""

log = logging.getLogger("ray.serve")
T = TypeVar("T")


def find_record(entry: Entry, index: int) -> dict[str, Any] | None:
    """The card of a feature in Neuronpedia's form, if its encoder has any. May block."""
    return _of_card(entry, index, lambda card: card.record)


def find_page(entry: Entry, index: int) -> Response:
    """The card for a browser. May block. Raises `not_acceptable` where there is none."""
    page = _of_card(entry, index, Card.page)
    if page is None:
        raise Problem(
            "not_acceptable",
            "This feature has no card to be shown: `bae-ray comsem --publish` names them. As application/json there "
            "is what the encoder says of it.",
        )
    return HTMLResponse(page, headers={"content-security-policy": POLICY})


def _of_card(entry: Entry, index: int, take: Callable[[Card], T]) -> T | None:
    """What is taken of a card; None where there is none that can be used."""
    try:
        card = read_card(entry.folder, index)
        return None if card is None else take(card)
    except Exception as error:  # a file of another version, or a damaged one, can raise anything
        _log(entry.key, f"{type(error).__name__}: {error}")
        return None


@lru_cache(maxsize=1024)
def _log(key: str, reason: str) -> None:
    """Once for each reason, since every request for a feature meets it."""
    log.error(f"encoder {key}: {CARDS_FILE} cannot be used: {reason}. Publish the cards anew.")
