"""The results of measuring the fidelity of runs: fidelity.csv, fidelity.png and fidelity.html."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from rich.table import Table

from bae_ray.analysis.matched_fidelity import ARCHITECTURE, RECOVERED, matched_fidelity
from bae_ray.report.fidelity_figure import fidelity_figure
from bae_ray.report.results_writer import Results
from bae_ray.report.terminal import Column, table_of
from bae_ray.training.run_fidelity import FidelityRecord, RunFidelity

NOTES = [
    (
        "A run's reconstruction takes the place of the activations that it was trained on, at its layer, site and "
        "position, while the language model reads held-out texts. What is measured are the next tokens from there on, "
        "which alone can see it; of position all these are all tokens."
    ),
    (
        "ce_recovered: (ce_zero - ce_spliced) / (ce_zero - ce_clean), as SAELens and SAEBench define it: 0 is as bad "
        "as zeros in place of the activations, 1 is the unchanged model. Zeros are far from any activation, so nearly "
        "everything recovers much; ce_recovered_mean, against the mean of the training texts in place, says what the "
        "reconstruction adds to a constant. Where an ablation costs next to nothing, neither says anything: see the "
        "cross-entropies and kl."
    ),
    (
        "kl: KL(clean || spliced), jsd: Jensen-Shannon divergence, both in nats per token; top1_agreement: share of "
        "tokens after which both models have the same most probable next one. Intervals (95 %) are over texts, drawn "
        "anew; the trained autoencoder stays as it is."
    ),
    (
        "Runs of a cell and architecture that differ in a weight or in k make a curve. The last table, where there is "
        "one, reads their rates where all recover the same of what the mean costs; between two runs, rates are taken "
        "to be linear in the logarithm of the rest."
    ),
]
COLUMNS = {
    "layer": "{layer}",
    "site": "{site}",
    "position": "{position}",
    "bits": "{heldout_bits:.1f}",
    "L0": "{l0:.1f}",
    "FVU": "{fvu_val:.3f}",
    "CE clean": "{ce_clean:.3f}",
    "spliced": "{ce_spliced:.3f}",
    "mean": "{ce_mean:.3f}",
    "zero": "{ce_zero:.3f}",
    "recovered": "{ce_recovered:.3f}",
    "of mean": "{ce_recovered_mean:.3f}",
    "KL": "{kl:.4f}",
    "top 1": "{top1_agreement:.3f}",
}


def fidelity_results(table: pd.DataFrame, records: Mapping[str, FidelityRecord]) -> Results:
    """The results of runs: rows of `results` with the columns of their fidelity, and the records by run."""
    numbers = [column for column in RunFidelity.model_fields if column in table]
    table = table.astype(dict.fromkeys(numbers, float))
    positions = _by_position(table["run"].tolist(), records)
    shown: dict[str, Column] = {name: form for name, form in COLUMNS.items() if form.split(":")[0].strip("{}") in table}
    if ARCHITECTURE in table:
        shown = {"autoencoder": lambda row: row[ARCHITECTURE], **shown}
    figure, matched = fidelity_figure(table), matched_fidelity(table)
    own = ["model", "layer", "site", "position", ARCHITECTURE, "entropy_bits", "heldout_bits", "l0", "fvu_val"]
    first = [column for column in own if column in table]
    return Results(
        page="fidelity.html",
        title="What the language model still predicts on reconstructions",
        tables={
            "fidelity.csv": table[[*first, *numbers, *(name for name in ("seed", "run") if name in table)]],
            "fidelity_by_position.csv": positions,
            **({"fidelity_matched.csv": matched} if len(matched) else {}),
        },
        figures={"fidelity.png": figure} if figure is not None else {},
        printed=[
            table_of("Reconstructions in place of activations", table, shown),
            *([_matched_table(matched)] if len(matched) else []),
        ],
        notes=NOTES,
    )


def _matched_table(matched: pd.DataFrame) -> Table:
    """Rates at one CE recovered."""
    title = f"Where the same is recovered of what the mean costs: {matched[RECOVERED].iloc[0]:.2f}"
    shown: dict[str, Column] = {name: f"{{{name}}}" for name in ("layer", "site", "position")}
    if ARCHITECTURE in matched:
        shown = {"autoencoder": lambda row: row[ARCHITECTURE], **shown}
    rates = {"held-out bits": "{heldout_bits:.1f}", "marginal bits": "{entropy_bits:.1f}", "L0": "{l0:.1f}"}
    return table_of(title, matched, {**shown, **rates, "seeds": "{seeds} of {of}"})


def _by_position(runs: Sequence[str], records: Mapping[str, FidelityRecord]) -> pd.DataFrame:
    """A row for each run and range of distances from the first token that sees what was replaced."""
    rows: list[dict[str, Any]] = [{"run": run, **part} for run in runs for part in records[run].by_position]
    return pd.DataFrame(rows)
