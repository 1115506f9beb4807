"""Results of steering: the table, three pictures and a page."""

import pandas as pd
from rich.table import Table

from bae_ray.experiments.steering.config import SteeringConfig
from bae_ray.experiments.steering.steering_figures import kept_figure, layer_figure, strength_figure
from bae_ray.experiments.steering.steering_summary import (
    References,
    compare,
    label_of,
    over_seeds,
    with_changes,
)
from bae_ray.experiments.steering.steering_units import NONE
from bae_ray.report.results_writer import Results
from bae_ray.report.terminal import table_of

NOTES = [
    (
        "A vector is the difference of two means over the calibration's prompts, those with demonstrations less those "
        "without: of latents, of which the largest are kept and decoded, or of activations (centroids). It is added to "
        "the last token of other prompts without demonstrations. Texts of the calibration, queries and demonstrations "
        "alike, are never steered."
    ),
    (
        "Whole vocabulary: the likeliest of all tokens begins the right label, the paper's measure, for which chance "
        "is about 0; it also rises where a vector only makes any label be said. Among the labels: the right one is the "
        "likeliest, for which chance is drawn; that takes an answer to the text. Log-odds: the right label against the "
        "likeliest wrong one. KL: of the next token after neutral texts, from the model that is not steered: what "
        "steering breaks."
    ),
    (
        "Controls: a random direction as long as the vector that it stands beside, and as many random features with "
        "the same numbers and the same length. pca is the first principal component of both sets together. Bars are "
        "95 % intervals over seeds, each with its own tests, calibration and trainings (Student's t)."
    ),
]


def steering_results(config: SteeringConfig, measured: pd.DataFrame, found: References) -> Results:
    """The results of measured rows, a row per seed, setting and strength."""
    table = with_changes(measured, found)
    means = over_seeds(table)
    figures = {"steering.png": strength_figure(means, config, found)}
    if (means["strength"] == config.compared_at).any():
        figures["steering_features.png"] = kept_figure(means, config, found)
    if config.layers and means["layer"].nunique() > 1:
        figures["steering_layers.png"] = layer_figure(means, config, found)
    line = (
        f"{found.shots}-shot prompts that are not steered (the calibration's queries): {found.few_shot_among:.3f} "
        f"among the labels, {found.few_shot_whole:.3f} over the whole vocabulary. Chance among the labels "
        f"{found.chance:.3f}, the tests' commonest label {found.majority:.3f}."
    )
    return Results(
        page="steering.html",
        title="Steering by the features of demonstrations",
        tables={"steering.csv": table, "steering_means.csv": means},
        figures=figures,
        printed=[_printed(means, config)],
        notes=[*NOTES, line],
        claims=compare(table, config),
        remarks=[line],
        page_table=means,
    )


def _printed(means: pd.DataFrame, config: SteeringConfig) -> Table:
    here = means[(means["layer"] == config.layer) & (means["weights"] == "values")]
    kept = "all" if config.kept is None else str(config.kept)
    shown = here[here["kept"].isin([kept, "all"]) | (here["method"] == NONE)]
    columns = {
        "method": lambda row: label_of(row["method"]),
        "kept": "{kept}",
        "length": lambda row: "centroids'" if row["rescaled"] else "own",
        "strength": "{strength:g}",
        "whole vocabulary": "{whole:.3f} ({whole_low:.2f}-{whole_high:.2f})",
        "among the labels": "{among:.3f} ({among_low:.2f}-{among_high:.2f})",
        "log-odds": "{log_odds_change:+.2f}",
        "KL": "{kl:.3f}",
    }
    return table_of(f"Steering at layer {config.layer}, means over seeds", shown, columns, left=["method"])
