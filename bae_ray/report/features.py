"""The feature browser: one self-contained page per autoencoder, and its features as JSON in Neuronpedia's form."""

import json
import math
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
import pyarrow.parquet as pq

from bae_ray.comsem.found import EVALUATION_FILE, EXAMPLES_FILE, Evaluation, Found
from bae_ray.comsem.layout import FEATURES_FILE, SUMMARY_FILE
from bae_ray.files import write_text

PAGE = "features.html"
JSON_FOLDER = "features"
MAX_SHOWN = 5
"""Strongest tokens on a card."""


def report_features(out: Path, json_features: bool = False) -> list[Path]:
    """Write the page of each method of a finished ComSem run, and with `json_features` a file per active feature."""
    summary = json.loads((out / SUMMARY_FILE).read_text(encoding="utf-8"))
    pages: list[Path] = []
    for row in summary["methods"]:
        folder = out / row["method"]
        evaluation = Evaluation.model_validate_json((folder / EVALUATION_FILE).read_text(encoding="utf-8"))
        found = Found(evaluation, pq.read_table(folder / EXAMPLES_FILE))
        features = pd.read_parquet(folder / FEATURES_FILE)
        write_text(folder / PAGE, _page(row, summary["judge"], features, found))
        if json_features:
            for index, record in feature_records(features, found, row["method"], summary["judge"]["model"]):
                write_text(folder / JSON_FOLDER / f"{index}.json", json.dumps(record, ensure_ascii=False) + "\n")
        pages.append(folder / PAGE)
    return pages


def feature_records(
    features: pd.DataFrame, found: Found, method: str, judge: str
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Active features as Neuronpedia has them: activations with tokens, values and their largest; explanations.

    The source names layer and method, as in "10-bae"; values that the evaluation set leaves out are 0.
    """
    evaluation = found.evaluation
    source = f"{evaluation.layer}-{method}"
    for row in features[features["active"]].to_dict("records"):
        index = int(row["feature"])
        activations = [
            {
                "tokens": one.pieces,
                "values": (values := [0.0 if math.isnan(value) else float(value) for value in one.values]),
                "maxValue": max(values),
                "maxValueTokenIndex": values.index(max(values)),
                "minValue": min(values),
                "layer": source,
                "index": str(index),
                "dataIndex": str(one.text),
                "activatedTokenIndex": one.at,
            }
            for one in found.strongest(index)
        ]
        explanation = {
            "description": row["explanation"],
            "explanationModelName": judge,
            "typeName": "bae-ray_comsem",
            "scores": [{"explanationScoreType": "comsem", "value": _known(row["score"])}],
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


def _page(summary: dict[str, Any], judge: dict[str, Any], features: pd.DataFrame, found: Found) -> str:
    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(
        _source("features.html.j2")
    )
    return template.render(
        title=f"Features of {summary['method']}",
        summary=summary,
        judge=judge,
        data={"features": [_card(row, found) for row in features[features["active"]].to_dict("records")]},
        script=_source("features.js"),
    )


def _card(row: dict[Any, Any], found: Found) -> dict[str, Any]:
    """What the page needs of one feature; a number that is not known is null."""
    return {
        "index": int(row["feature"]),
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
        "tokens": [
            {"pieces": one.pieces, "values": [_known(value) for value in one.values], "at": one.at}
            for one in found.strongest(int(row["feature"]))[:MAX_SHOWN]
        ],
    }


def _known(value: float) -> float | None:
    return None if value is None or math.isnan(value) else float(f"{value:.5g}")


def _source(name: str) -> str:
    return files("bae_ray.report").joinpath(name).read_text(encoding="utf-8")
