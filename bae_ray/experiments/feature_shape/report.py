"""The shape of features against their scores (the paper's Fig. 42 and 43, Appendix F.3)."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import pandas as pd
from rich.table import Table

from bae_ray.analysis.claims import CANNOT_TELL
from bae_ray.analysis.feature_clusters import NEAREST
from bae_ray.analysis.score_trend import Estimate, ScoreTrend
from bae_ray.experiments.feature_shape.config import FeatureShapeConfig
from bae_ray.experiments.feature_shape.plane import MISSING
from bae_ray.experiments.feature_shape.score_comparison import control_table, trend_table, trends
from bae_ray.experiments.feature_shape.shape_files import Plane
from bae_ray.experiments.feature_shape.shape_pictures import plane_figure, score_figure
from bae_ray.report.numbers import interval, known
from bae_ray.report.results_writer import Results
from bae_ray.report.terminal import table_of

if TYPE_CHECKING:
    from bae_ray.experiments.feature_shape.feature_scores import Scores
    from bae_ray.experiments.feature_shape.selected_tokens import Subject

NOTES = [
    (
        "Of a feature: all tokens, but the first of each text, of the sentences in which it is active. It is active on "
        "a token where its magnitude is among the k largest (Algorithm 1). All measures are in the space of the "
        f"activations. kNN purity: of the {NEAREST} nearest tokens of an active one (or as many as there are others "
        "active) the share that is active. Among other token ids: tokens of the same id are passed over, so that a "
        "feature of one word has none. Silhouette: of the active tokens, against all others. AUC along the dictionary "
        "row: chance that an active token lies further along it than another. The autoencoder decides by its encoder "
        "which tokens are active, so a large AUC is no surprise."
    ),
    (
        "Chance: the mean with labels shuffled within each sentence; p is the share of shufflings that reach the "
        "value. Controls take other tokens of the same sentences in place of the active ones, which are taken out: "
        "each about as frequent, or of the same token id (a feature that takes all tokens of an id has none of it)."
    ),
    (
        "Intervals are 95 %, a bootstrap over features of one autoencoder. Features share sentences, which it does not "
        "know of. The partial correlation holds the number of active tokens constant. High and low: means over the "
        "upper and the lower third of the scores."
    ),
]


def feature_shape_results(
    config: FeatureShapeConfig,
    subject: "Subject",
    scores: "Scores",
    table: pd.DataFrame,
    planes: Mapping[int, Plane],
) -> Results:
    """The results of measured features: `table` has a row for each, `planes` a picture of some."""
    table = table.assign(plane_purity=[planes[f].purity if f in planes else float("nan") for f in table["feature"]])
    chosen = (
        "Features are shown as they were named."
        if config.features is not None
        else f"Shown: the {config.shown} highest and as many lowest scores, of equal ones those active most often."
    )
    level = (
        f"{scores.how}. Mean score {scores.table['score'].mean():.3f} of {len(scores.table)} features; chance, on "
        f"another feature's examples, {known(float(scores.table['chance'].mean()), '.3f')}."
    )
    missing = [] if planes or table.empty else [f"{MISSING[0].upper()}{MISSING[1:]}."]
    if table.empty:
        return Results(
            page="feature_shape.html",
            title="Shape of features",
            tables={"feature_shape.csv": table},
            notes=[level, *NOTES],
            claims=["No feature is active on enough tokens to be measured."],
        )
    found = trends(table, config.shape.seed)
    by_score, controls = trend_table(found), control_table(table, config.shape.seed)
    figures = {"umap.png": plane_figure(table, planes)} if planes else {}
    return Results(
        page="feature_shape.html",
        title=f"Shape of features against their score (Fig. 42, 43): {subject.method.cell}",
        tables={"feature_shape.csv": table, "shape_by_score.csv": by_score, "shape_controls.csv": controls},
        figures={**figures, "feature_shape.png": score_figure(table, found)},
        printed=[_by_score(by_score), _controls(controls)],
        notes=[level, chosen, *missing, *NOTES],
        claims=claims(found, scores.caveat, scores.useless),
        remarks=[level, *missing],
        sections={"Shape by score, above chance": by_score, "Active tokens and controls, above chance": controls},
        warning=f"{scores.how}: its scores say nothing, and no difference between them counts."
        if scores.useless
        else "",
    )


def claims(found: Mapping[str, ScoreTrend], caveat: str, useless: bool) -> list[str]:
    """A line per claim. Scores of a useless judge decide none."""
    lines = []
    for name, what in (("purity", "kNN purity"), ("purity_beyond", "kNN purity beyond token identity")):
        trend = found[name]
        verdict = CANNOT_TELL if useless else trend.correlation.verdict() + (caveat if name == "purity" else "")
        lines.append(
            "Paper: tokens of high-score features cluster, those of low-score ones are dispersed. Here, by "
            f"{what} above chance: {verdict}; rank correlation with the score {_told(trend.correlation)} over "
            f"{trend.n} features ({_told(trend.partial)} with the number of tokens held), upper third "
            f"{_told(trend.high)}, lower {_told(trend.low)}."
        )
    purity, auc = found["purity"].low, found["auc"].low
    lines.append(
        "Paper: tokens of low-score features are alike only along their row of the dictionary. Here: "
        f"{CANNOT_TELL if useless else only_along_row(purity, auc)}; lower third, above chance: AUC along the row "
        f"{_told(auc)}, kNN purity {_told(purity)}."
    )
    return lines


def only_along_row(purity: Estimate, auc: Estimate) -> str:
    """Whether features that their row tells (AUC above chance) have no purity above chance in the whole space."""
    along, everywhere = auc.verdict(), purity.verdict()
    if along == CANNOT_TELL or math.isnan(purity.low):
        return CANNOT_TELL
    return "contradicts" if along == "contradicts" or everywhere == "agrees" else "agrees"


def _told(estimate: Estimate) -> str:
    value, low, high = (known(one, "+.3f") for one in estimate)
    return f"{value} [{low}, {high}]"


def _by_score(table: pd.DataFrame) -> Table:
    columns = {
        "measure, above chance": "{measure}",
        "features": "{features}",
        "rank correlation": interval("correlation"),
        "partial": interval("partial"),
        "high": interval("high"),
        "low": interval("low"),
    }
    return table_of("Shape by score, with 95 % intervals over features", table, columns, left=["measure, above chance"])


def _controls(table: pd.DataFrame) -> Table:
    columns = {
        "measure, above chance": "{measure}",
        "active": interval("active_mean"),
        "p <= .05": "{significant:.0%}",
        "as frequent": interval("frequency_mean"),
        "same ids": interval("identity_mean"),
        "active - same ids": interval("beyond_identity"),
    }
    return table_of("Active tokens and controls", table, columns, left=["measure, above chance"])
