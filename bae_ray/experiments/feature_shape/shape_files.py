"""Measuring features one at a time: each that is finished has a file, and is never measured again."""

from typing import Any

import numpy as np

from bae_ray.analysis.cluster_controls import FEWEST, Pool, shape
from bae_ray.analysis.feature_clusters import NEAREST, Floats, distances, neighbours, purity
from bae_ray.config import Record, content_hash
from bae_ray.experiments.feature_shape.config import FeatureShapeConfig
from bae_ray.experiments.feature_shape.plane import in_plane, umap_version
from bae_ray.experiments.feature_shape.selected_tokens import Pools
from bae_ray.files import write_text
from bae_ray.progress import track
from bae_ray.storage import folder_at
from bae_ray.work.receipts import read_receipt

MEASURED = "measured"
PLANES = "planes"
VERSION = 1
"""Of the measures: with another one, features are measured again."""


class MeasuredFeature(Record):
    """The file of a measured feature."""

    request: dict[str, Any]
    row: dict[str, float | None]
    """Columns of its row; None stands for NaN."""


class Plane(Record):
    """The file of a feature's picture."""

    request: dict[str, Any]
    places: list[tuple[float, float]]
    """Of each token of its pool."""
    active: list[bool]
    purity: float
    """kNN purity in the plane."""


def measure_features(config: FeatureShapeConfig, pools: Pools, features: list[int]) -> dict[int, dict[str, float]]:
    """The columns of each feature's row; only features that have no file in the folder are measured.

    A feature that is active on fewer than `FEWEST` tokens, or on all, is left out.
    """
    found: dict[int, dict[str, float]] = {}
    identity = pools.subject.identity()
    with track("Features", len(features)) as tracker:
        for feature in features:
            request = {"subject": identity, "feature": feature, **config.shape.model_dump(), "version": VERSION}
            file = f"{MEASURED}/{content_hash(request)}.json"
            receipt = read_receipt(folder_at(config.out), file, MeasuredFeature)
            if receipt is None:
                row = _row(pools.of(feature, config.shape.max_tokens, config.shape.seed), config)
                receipt = MeasuredFeature(request=request, row=row)
                write_text(config.out / file, receipt.to_json())
            if receipt.row:
                found[feature] = {name: np.nan if value is None else value for name, value in receipt.row.items()}
            tracker.advance()
    return found


def _row(pool: Pool, config: FeatureShapeConfig) -> dict[str, float | None]:
    """Nothing where the feature has too few tokens."""
    count = int(pool.active.sum())
    if count < FEWEST or len(pool.x) - count < FEWEST:
        return {}
    found = shape(pool, config.shape.permutations, config.shape.draws, config.shape.seed)
    _, of_ids = np.unique(pool.token_ids[pool.active], return_counts=True)
    row: dict[str, float] = {
        "sentences": len(np.unique(pool.sentence)),
        "tokens": len(pool.x),
        "active": count,
        "ids": len(of_ids),
        "top_id": float(of_ids.max() / count),
    }
    for prefix, clusters in (("", found.active), ("frequency_", found.frequency), ("identity_", found.identity)):
        if prefix:
            row[f"{prefix}tokens"] = clusters.tokens
        for name, measured in clusters._asdict().items():
            if name == "tokens":
                continue
            row[f"{prefix}{name}"] = measured.value
            row[f"{prefix}{name}_chance"] = measured.chance
            if not prefix:
                row[f"{name}_p"] = measured.p
    return {name: None if np.isnan(value) else value for name, value in row.items()}


def planes_of(config: FeatureShapeConfig, pools: Pools, features: list[int]) -> dict[int, Plane]:
    """The picture of each feature; only those that have no file are computed."""
    found: dict[int, Plane] = {}
    identity, installed = pools.subject.identity(), umap_version()
    cut = config.shape.model_dump(include={"max_tokens", "seed"})
    with track("UMAP", len(features)) as tracker:
        for feature in features:
            settings = {"pool": cut, "plane": config.plane.model_dump(), "umap": installed}
            request = {"subject": identity, "feature": feature, **settings}
            file = f"{PLANES}/{content_hash(request)}.json"
            plane = read_receipt(folder_at(config.out), file, Plane)
            if plane is None:
                plane = _plane(pools.of(feature, config.shape.max_tokens, config.shape.seed), config, request)
                write_text(config.out / file, plane.model_dump_json() + "\n")
            found[feature] = plane
            tracker.advance()
    return found


def _plane(pool: Pool, config: FeatureShapeConfig, request: dict[str, Any]) -> Plane:
    places: Floats = in_plane(pool.x, config.plane)
    apart = distances(places)
    np.fill_diagonal(apart, np.inf)
    k = min(NEAREST, int(pool.active.sum()) - 1)
    return Plane(
        request=request,
        places=[(x, y) for x, y in places.round(4).tolist()],
        active=pool.active.tolist(),
        purity=float(purity(neighbours(apart, k), pool.active[None])[0]),
    )
