"""Features to look at: a self-contained page per autoencoder, its cards in a file that the service finds, and as JSON.

The JSON is in Neuronpedia's form.
"""

import json
import math
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic_core import from_json

from bae_ray.autoencoders.checkpoint import WEIGHTS_FILE
from bae_ray.comsem.feature_details import Strongest
from bae_ray.comsem.feature_records import FeatureRecords, read_feature_records
from bae_ray.comsem.summary import FEATURES_FILE, SUMMARY_FILE
from bae_ray.errors import InvalidInputError
from bae_ray.files import atomic_path, check_regular, checksum, write_text
from bae_ray.report.html import render, source

PAGE = "features.html"
JSON_FOLDER = "features"
MAX_SHOWN = 5
"""Strongest tokens on a card."""
CARDS_FILE = "cards.parquet"
MAX_CARDS_BYTES = 1 << 30
ABOUT = b"bae_ray"
ROW_GROUP = 64
"""Features that are read to find one."""


class Scored(NamedTuple):
    """A method of a finished ComSem run."""

    row: dict[str, Any]
    """Of the summary."""
    judge: dict[str, Any]
    features: pd.DataFrame
    found: FeatureRecords

    @property
    def active(self) -> list[dict[Any, Any]]:
        """Rows of the features that there is a card of."""
        return self.features[self.features["active"]].to_dict("records")


def scored_methods(out: Path) -> Iterator[Scored]:
    """The methods of a finished ComSem run."""
    summary = json.loads((out / SUMMARY_FILE).read_text(encoding="utf-8"))
    for row in summary["methods"]:
        folder = out / row["method"]
        yield Scored(row, summary["judge"], pd.read_parquet(folder / FEATURES_FILE), read_feature_records(folder))


def report_features(out: Path, json_features: bool = False) -> list[Path]:
    """Write the page of each method of a finished ComSem run, and with `json_features` a file per active feature."""
    pages: list[Path] = []
    for method in scored_methods(out):
        folder = out / method.row["method"]
        cards = [card(row, method.found) for row in method.active]
        write_text(folder / PAGE, page(f"Features of {method.row['method']}", method.row, method.judge, cards))
        if json_features:
            for index, record in feature_records(method):
                write_text(folder / JSON_FOLDER / f"{index}.json", json.dumps(record, ensure_ascii=False) + "\n")
        pages.append(folder / PAGE)
    return pages


def feature_records(method: Scored) -> Iterator[tuple[int, dict[str, Any]]]:
    """Active features in Neuronpedia's form: activations with tokens, values and their largest; explanations.

    The source names layer and method, as in "10-bae". A value that the evaluation set leaves out is 0, or the smallest
    one beside it where that is less. Beside a score stand its chance level and the judge's own balanced accuracy.
    """
    source = f"{method.found.evaluation.layer}-{method.row['method']}"
    for row in method.active:
        index = int(row["feature"])
        activations = [
            {
                "tokens": one.pieces,
                "values": (values := _filled(one.values)),
                "maxValue": max(values),
                "maxValueTokenIndex": values.index(max(values)),
                "minValue": min(values),
                "layer": source,
                "index": str(index),
                "dataIndex": str(one.text),
                "activatedTokenIndex": one.at,
            }
            for one in method.found.strongest(index)
        ]
        explanation = {
            "description": row["explanation"],
            "explanationModelName": method.judge["model"],
            "typeName": "bae-ray_comsem",
            "scores": [
                {"explanationScoreType": "comsem", "value": _known(row["score"])},
                {"explanationScoreType": "comsem_chance", "value": _known(row["chance"])},
                {"explanationScoreType": "judge_balanced_accuracy", "value": method.judge["balanced_accuracy"]},
            ],
        }
        yield (
            index,
            {
                "layer": source,
                "index": str(index),
                "frac_nonzero": row["firing_rate"],
                "maxActApprox": _known(row["max_magnitude"]),
                "activations": activations,
                "explanations": [explanation] if row["explanation"] else [],
            },
        )


def _filled(values: list[float]) -> list[float]:
    """Values of a text. An unknown one becomes 0, or the smallest known one if that is less (burstiness is below 0)."""
    least = min((value for value in values if not math.isnan(value)), default=0.0)
    return [min(0.0, least) if math.isnan(value) else float(value) for value in values]


def page(title: str, summary: dict[str, Any], judge: dict[str, Any], cards: list[dict[str, Any]]) -> str:
    """The browser of some features' cards, in one file."""
    data, script = {"features": cards}, source("features.js")
    return render("features.html.j2", title=title, summary=summary, judge=judge, data=data, script=script)


def card(row: dict[Any, Any], found: FeatureRecords) -> dict[str, Any]:
    """What the page needs of one feature; a number that is not known is null."""
    details = found.details(int(row["feature"]))
    return {
        "index": int(row["feature"]),
        "sample": [_known(value) for value in details.sample],
        "quantiles": [_shown(one) for one in details.quantiles],
        "similar": [{"index": other.feature, "cosine": _known(other.cosine)} for other in details.similar],
        "promoted": [one.word for one in details.words.promoted],
        "suppressed": [one.word for one in details.words.suppressed],
        "status": row["status"],
        "explanation": row["explanation"],
        "score": _known(row["score"]),
        "n": int(row["n_test"]),
        "chance": _known(row["chance"]),
        "p_yes": _known(row["p_yes"]),
        "problems": int(row["parse_failures"] + row["refusals"]),
        "rate": row["firing_rate"],
        "entropy": _known(row["entropy_bits"]),
        "count": int(row["count"]),
        "error": row["error"],
        "tokens": [_shown(one) for one in found.strongest(int(row["feature"]))[:MAX_SHOWN]],
    }


def _shown(one: Strongest) -> dict[str, Any]:
    return {"pieces": one.pieces, "values": [_known(value) for value in one.values], "at": one.at}


def _known(value: float) -> float | None:
    return None if value is None or math.isnan(value) else float(f"{value:.5g}")


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
