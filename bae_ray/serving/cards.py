"""Cards of features, which ComSem has named, as the service gives them."""

import logging

from starlette.responses import HTMLResponse, Response

from bae_ray.report.cards import CARDS_FILE, Card, read_card
from bae_ray.serving.entries import Entry
from bae_ray.serving.problems import Problem

POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
"""A card asks for nothing but itself."""

log = logging.getLogger("ray.serve")


def find_card(entry: Entry, index: int) -> Card | None:
    """The card of a feature, if its encoder has any. May block."""
    try:
        return read_card(entry.folder, index)
    except (OSError, ValueError, KeyError) as error:
        log.error(f"encoder {entry.id}: {CARDS_FILE} cannot be read: {error}. Publish the cards anew.")
        return None


def shown(card: Card | None) -> Response:
    """A card for a browser."""
    if card is None:
        raise Problem(
            "not_acceptable",
            "This feature has no card to be shown: `bae-ray comsem --publish` names them. As application/json there "
            "is what the encoder says of it.",
        )
    return HTMLResponse(card.page, headers={"content-security-policy": POLICY})
