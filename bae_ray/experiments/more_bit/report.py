"""More-bit decoding (the paper's section 6 and Table 2), firing rates (Fig. 5, 39-41) and magnitudes (Fig. 35-38)."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from bae_ray.activations.rows import Rows
from bae_ray.activations.store import ActivationStore
from bae_ray.analysis.features import DENSE_RATE
from bae_ray.autoencoders import load_autoencoder
from bae_ray.comsem.config import ExamplesConfig
from bae_ray.comsem.feature_records import FeatureRecords
from bae_ray.experiments.more_bit.firing import firing_figure
from bae_ray.experiments.more_bit.magnitude_figure import magnitudes_figure
from bae_ray.experiments.more_bit.magnitudes import magnitude_map
from bae_ray.experiments.more_bit.more_bit_table import by_layer, more_bit_table, rates_of
from bae_ray.experiments.more_bit.trade_off import compare, print_table, trade_off_figure
from bae_ray.report.figures import save_png
from bae_ray.report.html import write_report
from bae_ray.training.results import write_csv

NOTES = [
    (
        "More-bit decoding (Eq. 7) decodes every C bits of the code as one real feature; the number of features, "
        "d_latent / C, is the same for all C. L_r is the mean squared error on held-out vectors, in the activations' "
        "own units. Bits are the marginal entropy of the code over training and held-out vectors together."
    ),
    (
        "On other texts: the FVU, and how often each feature is active. It fires on a token where it is not 0 (with C "
        "bits: where any is 1). It is selected where its magnitude is among the k largest of all features (Algorithm "
        "1): burstiness for one bit, the real feature for several, the latent for a sparse autoencoder. The paper does "
        "not say which of the two its Fig. 5 counts, so both are here. Act. are the features selected on more than n_I "
        f"tokens. Dead: never; dense: on more than {DENSE_RATE:.0%} of the tokens. A bit that is nearly always 1 fires "
        "densely and carries as little as one that is nearly always 0; burstiness takes either for what it is."
    ),
    (
        "Maps of magnitudes: evenly spaced tokens of the other texts down, features across. Where features outnumber "
        "the columns, the largest of neighbours is drawn, so that a dense feature stays a vertical stripe. Burstiness "
        "is cut at the end of the paper's colour scale."
    ),
]


@dataclass(frozen=True)
class MoreBitReport:
    """Trained autoencoders and what was found of their features."""

    runs: pd.DataFrame
    """The rows of `results`."""
    folder: Path
    """Folder of the runs."""
    evaluation: ActivationStore
    """Activations of other texts, of position `all`."""
    found: Mapping[str, FeatureRecords]
    """What was found there of each run's features."""
    examples: ExamplesConfig
    """With which settings."""
    scores: pd.DataFrame | None
    """ComSem's summary of the runs at `layer`, where a judge was asked."""
    layer: int
    """Layer of Table 2."""

    def write(self, out: Path, config_json: str, map_samples: int, map_columns: int) -> pd.DataFrame:
        """Write more_bit.csv, .png and .html, firing_rates.png and magnitudes_layer{l}.png into `out`.

        Prints the table, the claims and the paths.
        """
        table = more_bit_table(self.runs, self.found, self.examples, self.scores)
        write_csv(table, out / "more_bit.csv")
        figures = {"firing_rates": self._firing(table)}
        for layer, runs in _one_bit(table).items():
            x = Rows(self.evaluation.shards(layer, "all"))
            autoencoders = {name: load_autoencoder(self.folder / run) for name, run in runs.items()}
            maps = {name: magnitude_map(one, x, map_samples, map_columns) for name, one in autoencoders.items()}
            figures[f"magnitudes_layer{layer}"] = magnitudes_figure(layer, maps)
        lines: list[str] = []
        if (table["layer"] == self.layer).any():
            figures = {"more_bit": trade_off_figure(table, self.layer), **figures}
            lines = compare(table, self.layer)
        for name, figure in figures.items():
            save_png(figure, out / f"{name}.png")
        title = "More-bit decoding, firing rates and magnitudes (Table 2, Fig. 5, 35-41)"
        write_report(out / "more_bit.html", title, list(figures.values()), [*NOTES, *lines], table, config_json)
        print_table(table)
        names = ["more_bit.csv", *(f"{name}.png" for name in figures), "more_bit.html"]
        for line in [*lines, *(str(out / name) for name in names)]:
            print(line)
        return table

    def _firing(self, table: pd.DataFrame) -> Figure:
        rates = {
            layer: {name: rates_of(self.found[run]) for name, run in runs.items()}
            for layer, runs in _one_bit(table).items()
        }
        return firing_figure(rates, int(table["n_tokens"].iloc[0]), self.examples.k)


def _one_bit(table: pd.DataFrame) -> dict[int, dict[str, str]]:
    """By layer and name, the runs that the figures are of: one bit per feature, and the sparse autoencoder."""
    shown = table[table["bits_per_feature"].fillna(1) == 1]
    return {layer: dict(zip(rows["method"], rows["run"], strict=True)) for layer, rows in by_layer(shown)}
