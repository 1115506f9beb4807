"""More-bit decoding (the paper's section 6 and Table 2), firing rates (Fig. 5, 39-41) and magnitudes (Fig. 35-38)."""

from bae_ray.analysis.features import DENSE_RATE
from bae_ray.experiments.more_bit.activity import firing_figure, magnitudes_figure
from bae_ray.experiments.more_bit.config import MoreBitConfig
from bae_ray.experiments.more_bit.measurements import Measurements
from bae_ray.experiments.more_bit.trade_off import compare, printed_table, trade_off_figure
from bae_ray.report.results_writer import Results

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


def more_bit_results(config: MoreBitConfig, found: Measurements) -> Results:
    """The results of what was measured."""
    table = found.table
    figures = {"firing_rates.png": firing_figure(found.rates, int(table["n_tokens"].iloc[0]), config.examples.k)}
    figures |= {f"magnitudes_layer{layer}.png": magnitudes_figure(layer, maps) for layer, maps in found.maps.items()}
    claims: list[str] = []
    if (table["layer"] == config.layer).any():
        figures = {"more_bit.png": trade_off_figure(table, config.layer), **figures}
        claims = compare(table, config.layer)
    return Results(
        page="more_bit.html",
        title="More-bit decoding, firing rates and magnitudes (Table 2, Fig. 5, 35-41)",
        tables={"more_bit.csv": table},
        figures=figures,
        printed=[printed_table(table)],
        notes=NOTES,
        claims=claims,
    )
