"""Cards of features that ComSem has named."""

import logging
from collections.abc import Callable
from functools import lru_cache
from typing import TypeVar

from starlette.responses import HTMLResponse, Response

from bae_ray.report.published_cards import CARDS_FILE, Card, read_card
from bae_ray.serving.http.problems import Problem
from bae_ray.serving.registry.entry import Entry
from bae_ray.serving.time_limits import AwaitedCalls

POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
"""A card loads nothing else."""

READ_TIMEOUT_S = 5.0

log = logging.getLogger("ray.serve")
_reads = AwaitedCalls(READ_TIMEOUT_S)
T = TypeVar("T")


async def find_card(entry: Entry, index: int) -> Card | None:
    """The card of a feature, or None."""
    return await _of_card(entry, index, lambda card: card)


async def find_page(entry: Entry, index: int) -> Response:
    """The card as a page for browsers. Raises `not_acceptable` if there is none."""
    page = await _of_card(entry, index, Card.page)
    if page is None:
        raise Problem(
            "not_acceptable",
            "This feature has no card to be shown: `bae-ray comsem --publish` names them. As application/json there "
            "is what the encoder says of it.",
        )
    return HTMLResponse(page, headers={"content-security-policy": POLICY})


async def _of_card(entry: Entry, index: int, take: Callable[[Card], T]) -> T | None:
    """`take` of the card; None if there is none, or if it cannot be read, in time."""

    def read() -> T | None:
        card = read_card(entry.folder, index)
        return None if card is None else take(card)

    try:
        return await _reads.call(entry.key, read)
    except Exception as error:  # a file of another version, or a damaged one, can raise anything
        _log(entry.key, f"{type(error).__name__}: {error}")
        return None


@lru_cache(maxsize=1024)
def _log(key: str, reason: str) -> None:
    """Log a reason once: every request for a feature meets it."""
    log.error(f"encoder {key}: {CARDS_FILE} cannot be used: {reason}. Publish the cards anew.")
