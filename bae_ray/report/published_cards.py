"""Cards of features that ComSem has named: the file beside an autoencoder that holds them, and one as a page.

The service reads them in each of its processes, so nothing is imported here that takes seconds.
"""

import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic_core import from_json

from bae_ray.autoencoders.checkpoint import WEIGHTS_FILE
from bae_ray.errors import InvalidInputError
from bae_ray.files import atomic_path, check_regular, checksum
from bae_ray.report.html import render, source

CARDS_FILE = "cards.parquet"
MAX_CARDS_BYTES = 1 << 30
ABOUT = b"bae_ray"
ROW_GROUP = 64
"""Features that are read to find one."""


def page(title: str, summary: dict[str, Any], judge: dict[str, Any], cards: list[dict[str, Any]]) -> str:
    """The browser of some features' cards, in one file."""
    data, script = {"features": cards}, source("features.js")
    return render("features.html.j2", title=title, summary=summary, judge=judge, data=data, script=script)


class Card(NamedTuple):
    """What ComSem found of a feature."""

    record: dict[str, Any]
    """In Neuronpedia's form."""
    shown: dict[str, Any]
    """What the page needs of it."""
    about: dict[str, Any]
    """The run's summary and judge."""

    def page(self) -> str:
        """As HTML, self-contained."""
        title = f"Feature {self.shown['index']} of {self.about['summary']['method']}"
        return page(title, self.about["summary"], self.about["judge"], [self.shown])


def write_cards(
    autoencoder: Path, records: Sequence[dict[str, Any]], shown: Sequence[dict[str, Any]], about: dict[str, Any]
) -> Path:
    """Put the cards of a run into an autoencoder's folder; the file. Of a card, see `Card`; one `about` is of all.

    It names the weights that its cards belong to, so that they are never shown for other weights.
    """
    table = pa.table(
        {
            "feature": pa.array([one["index"] for one in shown], pa.int64()),
            "card": pa.array([json.dumps(one) for one in shown], pa.string()),
            "record": pa.array([json.dumps(one) for one in records], pa.string()),
        }
    )
    metadata = {ABOUT: json.dumps(about | {"weights": checksum(autoencoder / WEIGHTS_FILE)})}
    with atomic_path(autoencoder / CARDS_FILE) as temporary:
        pq.write_table(table.replace_schema_metadata(metadata), temporary, row_group_size=ROW_GROUP)
    return autoencoder / CARDS_FILE


def read_card(autoencoder: Path, index: int) -> Card | None:
    """The card of a feature, if its autoencoder has cards and the feature is active; only its part is read.

    Raises `InvalidInputError` where the cards belong to other weights than the folder's, and `OSError`, `ValueError`,
    `KeyError` or `TypeError` where the file is damaged.
    """
    found = _checked(autoencoder, filters=[("feature", "==", index)])
    if found is None or not len(found[0]):
        return None
    table, about = found
    return Card(from_json(table["record"][0].as_py()), from_json(table["card"][0].as_py()), about)


def read_cards(autoencoder: Path) -> tuple[dict[int, dict[str, Any]], dict[str, Any]]:
    """`shown` of all cards by their features, and what is `about` them all; both empty where there are none.

    Raises what `read_card` does.
    """
    found = _checked(autoencoder, columns=["feature", "card"])
    if found is None:
        return {}, {}
    table, about = found
    cards = zip(table["feature"].to_pylist(), table["card"].to_pylist(), strict=True)
    return {index: from_json(card) for index, card in cards}, about


def _checked(autoencoder: Path, **options: Any) -> tuple[pa.Table, dict[str, Any]] | None:
    """The cards' file, as `options` of pyarrow's say, and its `about`; None if there is none."""
    file = autoencoder / CARDS_FILE
    if not file.exists():
        return None
    check_regular(file, MAX_CARDS_BYTES)
    table = pq.read_table(file, **options)
    about = json.loads((table.schema.metadata or {}).get(ABOUT, b"null"))
    if not isinstance(about, dict):
        raise ValueError(f"{file} has no {ABOUT.decode()} in its metadata")
    if about.get("weights") != _weights(autoencoder / WEIGHTS_FILE):
        raise InvalidInputError(f"{file} is not of the weights in {WEIGHTS_FILE} beside it")
    return table, about


def _weights(file: Path) -> str:
    """The checksum of an autoencoder's weights; each file is read once."""
    stat = file.stat()
    return _checksum(file, stat.st_ino, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=1024)
def _checksum(file: Path, *_identity: int) -> str:
    return checksum(file)
