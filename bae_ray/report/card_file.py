"""Cards of features, in a file of their autoencoder's folder, where the service finds them."""

import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic_core import from_json

from bae_ray.autoencoders.checkpoint import WEIGHTS_FILE
from bae_ray.errors import InvalidInputError
from bae_ray.files import atomic_path, check_regular, checksum
from bae_ray.report.feature_browser import card, feature_records, page, scored_methods

CARDS_FILE = "cards.parquet"
MAX_CARDS_BYTES = 1 << 30
ABOUT = b"bae_ray"
ROW_GROUP = 64
"""Features that are read to find one."""


class Card(NamedTuple):
    """What ComSem found of a feature."""

    record: dict[str, Any]
    """In Neuronpedia's form."""
    about: dict[str, Any]
    """The run's summary and judge."""
    shown: dict[str, Any]
    """What the page needs of it."""

    def page(self) -> str:
        """As HTML, self-contained."""
        title = f"Feature {self.shown['index']} of {self.about['summary']['method']}"
        return page(title, self.about["summary"], self.about["judge"], [self.shown])


def publish_cards(out: Path, autoencoders: Mapping[str, Path]) -> list[Path]:
    """Put the cards of a finished ComSem run into the folders of its autoencoders, which are given by method.

    The file names the weights that its cards belong to, so that they are never shown for other weights.
    """
    written: list[Path] = []
    for method in scored_methods(out):
        folder = autoencoders.get(method.row["method"])
        if folder is None:
            continue
        table = pa.table(
            {
                "feature": pa.array([int(row["feature"]) for row in method.active], pa.int64()),
                "card": pa.array([json.dumps(card(row, method.found)) for row in method.active], pa.string()),
                "record": pa.array([json.dumps(record) for _, record in feature_records(method)], pa.string()),
            }
        )
        weights = checksum(folder / WEIGHTS_FILE)
        about = json.dumps({"summary": method.row, "judge": method.judge, "weights": weights})
        with atomic_path(folder / CARDS_FILE) as temporary:
            pq.write_table(table.replace_schema_metadata({ABOUT: about}), temporary, row_group_size=ROW_GROUP)
        written.append(folder / CARDS_FILE)
    return written


def read_card(autoencoder: Path, index: int) -> Card | None:
    """The card of a feature, if its autoencoder has cards and the feature is active; only its part is read.

    Raises `InvalidInputError` where the cards belong to other weights than the folder's, and `OSError`, `ValueError`,
    `KeyError` or `TypeError` where the file is damaged.
    """
    file = autoencoder / CARDS_FILE
    if not file.exists():
        return None
    check_regular(file, MAX_CARDS_BYTES)
    table = pq.read_table(file, filters=[("feature", "==", index)])
    about = json.loads((table.schema.metadata or {}).get(ABOUT, b"null"))
    if not isinstance(about, dict):
        raise ValueError(f"{file} has no {ABOUT.decode()} in its metadata")
    if about.get("weights") != _weights(autoencoder / WEIGHTS_FILE):
        raise InvalidInputError(f"{file} is not of the weights in {WEIGHTS_FILE} beside it")
    if not len(table):
        return None
    return Card(from_json(table["record"][0].as_py()), about, from_json(table["card"][0].as_py()))


def _weights(file: Path) -> str:
    """The checksum of an autoencoder's weights; each file is read once."""
    stat = file.stat()
    return _checksum(file, stat.st_ino, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=1024)
def _checksum(file: Path, *_identity: int) -> str:
    return checksum(file)
