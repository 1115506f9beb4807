"""Cards of features beside their autoencoder, where the service finds them: a file of the autoencoder's folder."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from bae_ray.files import atomic_path
from bae_ray.report.features import card, feature_records, page, scored_methods

CARDS_FILE = "cards.parquet"
ABOUT = b"bae_ray"
ROW_GROUP = 64
"""Features that are read to find one."""


class Card(NamedTuple):
    """What ComSem found of a feature."""

    record: dict[str, Any]
    """In Neuronpedia's form."""
    page: str
    """As HTML, self-contained."""


def publish_cards(out: Path, autoencoders: Mapping[str, Path]) -> list[Path]:
    """Put the cards of a finished ComSem run into the folders of its autoencoders, which are given by method."""
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
        about = json.dumps({"summary": method.row, "judge": method.judge})
        with atomic_path(folder / CARDS_FILE) as temporary:
            pq.write_table(table.replace_schema_metadata({ABOUT: about}), temporary, row_group_size=ROW_GROUP)
        written.append(folder / CARDS_FILE)
    return written


def read_card(autoencoder: Path, index: int) -> Card | None:
    """The card of a feature, if its autoencoder has cards and the feature is active; only its part is read.

    Raises `OSError` and `ValueError` where the file is damaged.
    """
    file = autoencoder / CARDS_FILE
    if not file.exists():
        return None
    table = pq.read_table(file, filters=[("feature", "==", index)])
    if not len(table):
        return None
    about = json.loads((table.schema.metadata or {}).get(ABOUT, b"null"))
    if not isinstance(about, dict):
        raise ValueError(f"{file} has no {ABOUT.decode()} in its metadata")
    found = json.loads(table["card"][0].as_py())
    shown = page(f"Feature {index} of {about['summary']['method']}", about["summary"], about["judge"], [found])
    return Card(json.loads(table["record"][0].as_py()), shown)
