"""The results of an entropy sweep: entropy.csv, entropy.png and report.html."""

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

from bae_ray.analysis.claims import claim, last_share, saturation_claim, trend
from bae_ray.experiments.layer_position.estimators import HEADING, survival
from bae_ray.experiments.layer_position.estimators import NOTE as RIVALS_NOTE
from bae_ray.experiments.layer_position.interactive import sweep_data
from bae_ray.experiments.layer_position.matched import NOTE as MATCHED_NOTE
from bae_ray.experiments.layer_position.matched import Matched, curves, matched_figure, matched_parts, matched_table
from bae_ray.report.entropy_tables import entropy_tables, variants
from bae_ray.report.fidelity_figure import fidelity_figure
from bae_ray.report.figures import entropy_figure
from bae_ray.report.held_out_figure import held_out_figure
from bae_ray.report.measure_maps import measure_maps
from bae_ray.report.measures import ESTIMATORS, known_measures
from bae_ray.report.results_writer import Results, write_results
from bae_ray.training.caveats import caveat_lines
from bae_ray.training.results import entropy_table, outcomes, results
from bae_ray.training.run_folder import RUN_FILE
from bae_ray.training.sweep_folder import unfinished

NOTES = [
    (
        "Entropy is the marginal entropy of the binary code over all n texts, training and held-out, in bits: an upper "
        "bound of what the code carries. It is comparable between cells only at like FVU (fraction of variance "
        "unexplained), so read both: a cell with a high held-out FVU is not described by its code, whatever its bits."
    ),
    (
        "entropy_low and entropy_high: a 95 % interval, the trained autoencoder as it is, for texts like all n, most "
        "of which it was trained on. entropy_bits_val is the entropy of the held-out texts alone, and its interval is "
        "for new texts. Firing rates estimated from n texts make an entropy too low on average, by about entropy_bias, "
        "around which intervals lie; a click on a cell shows how the number grows with n."
    ),
    (
        "tree_bits: entropy of the same code under a Chow-Liu tree (Chow and Liu, 1968), in which each latent hangs on "
        "one other. What latents do together counts once: it is at most entropy_bits, and at least the joint entropy "
        "of these texts. heldout_bits: the code length of a held-out text under the tree of the training texts; "
        "heldout_marginal_bits: the same without the tree. joint_bits: of whole codes, where these recur."
    ),
    (
        "l0: latents that fire per text; dead: share that never fires; dense: share that fires on more than a tenth of "
        "the texts."
    ),
]


def entropy_results(
    runs: Path, only: Iterable[str] | None = None, matched_fvu: float | None = None, fixed_weight: float | None = None
) -> Results:
    """The results of the run directories below `runs`, or of those `only`.

    Where the runs are of several entropy weights also the bits at held-out FVU `matched_fvu`, by default the one that
    most cells have, beside those at `fixed_weight`. Raises `InvalidInputError` where no run is finished.
    """
    only = None if only is None else list(only)
    table = results(runs, only=only)
    tables, figures = {"entropy.csv": entropy_table(table)}, {"entropy.png": entropy_figure(table)}
    if (held_out := held_out_figure(table)) is not None:
        figures["heldout.png"] = held_out
    if (spliced := fidelity_figure(table)) is not None:
        figures["fidelity.png"] = spliced
    caveats = caveat_lines(table, runs)
    printed, notes = entropy_tables(table), [*NOTES, *caveats]
    parts: list[Matched] = []
    if several := curves(table):
        parts = matched_parts(several, matched_fvu, fixed_weight)
        tables["matched.csv"] = pd.concat([part.cells.assign(variant=part.label) for part in parts])
        figures["matched.png"] = matched_figure(parts)
        printed, notes = [*printed, *map(matched_table, parts)], [*notes, MATCHED_NOTE]
    if len(names := known_measures(table, ESTIMATORS)) > 1:
        figures["estimators.png"] = measure_maps(table, names)
        notes.append(RIVALS_NOTE)
    told = survival(table) if len(names) > 1 else None
    if told is not None:
        tables["claims.csv"], printed = told.table, [*printed, told.printed]
    return Results(
        page="report.html",
        title="Entropy by layer and token position",
        tables=tables,
        figures=figures,
        printed=printed,
        notes=notes,
        claims=[*compare(table, parts), *(told.lines if told else [])],
        remarks=caveats,
        sections={HEADING: told.table} if told else {},
        page_table=outcomes(runs, only=only).drop(columns=["subset_n", "subset_bits"]),
        sweep=sweep_data(table, runs),
        registry=runs,
    )


def report_entropies(
    runs: Path, out: Path, matched_fvu: float | None = None, fixed_weight: float | None = None
) -> list[Path]:
    """Write the results of all runs below `runs` into `out`; the files. See `entropy_results`.

    The page begins with how many runs of the sweep are finished, if not all are.
    """
    found = dataclasses.replace(entropy_results(runs, None, matched_fvu, fixed_weight), warning=unfinished(runs))
    configs = [(runs / run / RUN_FILE).read_text("utf-8") for run in results(runs)["run"]]
    return write_results(found, out, "\n".join(configs))


def compare(table: pd.DataFrame, matched: Sequence[Matched] = ()) -> list[str]:
    """The paper's claims of section 4.2 beside what was found, for each variant; nothing without several cells.

    Also at one held-out FVU, where cells were read at one (`matched`): then they can be compared.
    """
    lines: list[str] = []
    for variant in variants(table):
        lines += _claims(variant.runs, variant.label, "entropy_bits", variant.runs)
    for part in matched:
        cells = part.cells.assign(fvu_val=part.cells["fvu"])
        at = f"at held-out FVU {cells['fvu'].iloc[0]:g}"
        lines += _claims(cells, f"{part.label}, {at}" if part.label else at, f"{part.prefix}bits", part.runs)
    return lines


def _claims(cells: pd.DataFrame, label: str, value: str, runs: pd.DataFrame) -> list[str]:
    """Of one variant: rows with a cell and its bits, and the runs that they are of."""
    lines, prefix = [], f"{label}: " if label else ""
    numbered = cells[[isinstance(position, int) for position in cells["position"]]]
    if cells["layer"].nunique() >= 3:
        depth = trend(cells, "layer", ["position", "site"], value)
        lines.append(prefix + claim("entropy rises with depth", depth, "rises", "layer", runs))
    if (steps := numbered["position"].nunique() - 1) >= 2:
        along = trend(numbered, "position", ["layer", "site"], value)
        share = last_share(numbered, "position", ["layer", "site"], value)
        lines.append(prefix + claim("it rises with position", along, "rises", "position", runs))
        lines.append(prefix + saturation_claim(along, share, "position", steps, runs))
    return lines
