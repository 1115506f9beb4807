"""The results of an entropy sweep: entropy.csv, entropy.png and report.html."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from bae_ray.analysis.claims import claim, last_share, trend
from bae_ray.experiments.layer_position.interactive import sweep_data
from bae_ray.experiments.layer_position.matched import NOTE as MATCHED_NOTE
from bae_ray.experiments.layer_position.matched import curves, report_matched
from bae_ray.report.entropy_tables import print_entropies
from bae_ray.report.figures import entropy_figure, save_png
from bae_ray.report.html import write_report
from bae_ray.report.variants import variants
from bae_ray.training.results import entropy_table, outcomes, results, write_csv
from bae_ray.training.run_folder import RUN_FILE

NOTES = [
    (
        "Entropy is the marginal entropy of the binary code over all n texts, training and held-out, in bits: an upper "
        "bound of what the code carries. It is comparable between cells only at like FVU (fraction of variance "
        "unexplained), so read both: a cell with a high held-out FVU is not described by its code, whatever its bits."
    ),
    (
        "entropy_low and entropy_high: the 95 % interval of a bootstrap over the texts, the trained autoencoder as it "
        "is. Firing rates estimated from n texts make the entropy too low on average, by about entropy_bias; a click "
        "on a cell shows how the number grows with n."
    ),
    (
        "l0: latents that fire per text; dead: share that never fires; dense: share that fires on more than a tenth of "
        "the texts."
    ),
]


class ReportFiles(NamedTuple):
    """Where the results are."""

    table: Path
    picture: Path
    page: Path


def report_entropies(
    runs: str | Path,
    out: str | Path,
    config_json: str | None = None,
    only: Iterable[str] | None = None,
    matched_fvu: float | None = None,
    fixed_weight: float | None = None,
) -> ReportFiles:
    """Write the three files into `out` from the run directories below `runs`, and print the table and the paths.

    Where the runs are of several entropy weights, matched.csv and matched.png as well: bits at held-out FVU
    `matched_fvu`, by default the one that most cells have, beside those at `fixed_weight`. `config_json` is the
    resolved config that the page shows; left out, it is that of the runs. Raises `InvalidInputError` where no run is
    finished.
    """
    only = None if only is None else list(only)
    table, ended = results(runs, only=only), outcomes(runs, only=only)
    config_json = config_json or "\n".join((Path(runs) / run / RUN_FILE).read_text("utf-8") for run in table["run"])
    out = Path(out)
    made = ReportFiles(out / "entropy.csv", out / "entropy.png", out / "report.html")
    write_csv(entropy_table(table), made.table)
    figure = entropy_figure(table)
    save_png(figure, made.picture)
    print_entropies(table)
    lines = compare(table)
    figures, notes = [figure], [*NOTES, *lines]
    if several := curves(table):
        figures.append(report_matched(several, out, matched_fvu, fixed_weight))
        notes.append(MATCHED_NOTE)
    title, shown = "Entropy by layer and token position", ended.drop(columns=["subset_n", "subset_bits"])
    write_report(made.page, title, figures, notes, shown, config_json, sweep_data(table, Path(runs)))
    for line in lines:
        print(line)
    for name, path in made._asdict().items():
        print(f"{name:8} {path}")
    return made


def compare(table: pd.DataFrame) -> list[str]:
    """The paper's claims of section 4.2 beside what was found, for each variant; nothing without several cells."""
    lines: list[str] = []
    for variant in variants(table):
        runs, prefix = variant.runs, f"{variant.label}: " if variant.label else ""
        numbered = runs[[isinstance(position, int) for position in runs["position"]]]
        if runs["layer"].nunique() >= 3:
            depth = trend(runs, "layer", ["position", "site"])
            lines.append(prefix + claim("entropy rises with depth", depth, "rises", "layer", runs))
        if numbered["position"].nunique() >= 3:
            along = trend(numbered, "position", ["layer", "site"])
            share = last_share(numbered, "position", ["layer", "site"])
            lines.append(prefix + claim("it rises with position", along, "rises", "position", numbered))
            lines.append(
                f"{prefix}Paper: and saturates. Here: the last step of position makes {share:.0%} of the whole rise "
                f"(an even rise over {numbered['position'].nunique() - 1} steps: "
                f"{1 / (numbered['position'].nunique() - 1):.0%})."
            )
    return lines
