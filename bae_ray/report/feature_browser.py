"""Features to look at: a self-contained page per autoencoder, its cards in a file that the service finds, and as JSON.

The JSON is in Neuronpedia's form.
"""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from bae_ray.comsem.feature_details import Strongest
from bae_ray.comsem.feature_records import FeatureRecords, read_feature_records
from bae_ray.comsem.summary import FEATURES_FILE, SUMMARY_FILE
from bae_ray.files import write_text
from bae_ray.report.published_cards import page, write_cards

PAGE = "features.html"
JSON_FOLDER = "features"
MAX_SHOWN = 5
"""Strongest tokens on a card."""


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


def publish_cards(out: Path, autoencoders: Mapping[str, Path]) -> list[Path]:
    """Put the cards of a finished ComSem run into the folders of its autoencoders, which are given by method."""
    written: list[Path] = []
    for method in scored_methods(out):
        folder = autoencoders.get(method.row["method"])
        if folder is None:
            continue
        about = {"summary": method.row, "judge": method.judge}
        shown = [card(row, method.found) for row in method.active]
        records = [record for _, record in feature_records(method)]
        written.append(write_cards(folder, records, shown, about))
    return written
