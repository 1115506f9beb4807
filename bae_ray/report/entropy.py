"""The results of an entropy sweep: entropy.csv, entropy.png and report.html."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from bae_ray.report.figures import entropy_figure, save_png
from bae_ray.report.html import write_report
from bae_ray.report.tables import print_entropies
from bae_ray.training.results import entropy_table, results, write_csv
from bae_ray.training.run import RUN_FILE

NOTES = [
    (
        "Entropy is the marginal entropy of the binary code over all n texts, training and held-out, in bits: an upper "
        "bound of what the code carries. It is comparable between cells only at like FVU (fraction of variance "
        "unexplained), so read both: a cell with a high held-out FVU is not described by its code, whatever its bits."
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
    runs: str | Path, out: str | Path, config_json: str | None = None, only: Iterable[str] | None = None
) -> ReportFiles:
    """Write the three files into `out` from the run directories below `runs`, and print the table and the paths.

    `config_json` is the resolved config that the page shows; left out, it is that of the runs.
    """
    table = results(runs, only=only)
    config_json = config_json or "\n".join((Path(runs) / run / RUN_FILE).read_text("utf-8") for run in table["run"])
    out = Path(out)
    made = ReportFiles(out / "entropy.csv", out / "entropy.png", out / "report.html")
    write_csv(entropy_table(table), made.table)
    figure = entropy_figure(table)
    save_png(figure, made.picture)
    write_report(made.page, "Entropy by layer and token position", [figure], NOTES, table, config_json)
    print_entropies(table)
    for name, path in made._asdict().items():
        print(f"{name:8} {path}")
    return made
