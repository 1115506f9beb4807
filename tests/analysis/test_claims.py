import itertools
import math
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from bae_ray.analysis.claims import claim, first_of, last_share, saturation_claim, trend


def table(bits: dict[tuple[int, int], float]) -> pd.DataFrame:
    """Two seeds for each (layer, position), one above and one below."""
    constant = {"n_train": 8, "n_val": 2}
    return pd.DataFrame(
        [
            {"layer": layer, "position": position, "entropy_bits": value + offset, "seed": seed, **constant}
            for (layer, position), value in bits.items() for seed, offset in ((0, 1.0), (1, -1.0))
        ]
    )  # fmt: skip


def test_trends_are_rank_correlations_within_groups():
    rising = table({(layer, position): 10 * layer + 100 * position for layer in range(4) for position in (1, 2, 4)})
    found = trend(rising, "layer", ["position"])
    assert (found.correlation, found.groups) == (pytest.approx(1), 3)
    assert (found.p_rises, found.p_falls) == (pytest.approx(1 / 24), pytest.approx(1))
    assert found.verdict("rises") == "agrees"
    assert found.verdict("falls") == "contradicts"
    bent = table({(0, 1): 1, (1, 1): 3, (2, 1): 2, (0, 2): 3, (1, 2): 1, (2, 2): 2})
    mixed = trend(bent, "layer", ["position"])
    assert (mixed.lowest, mixed.highest) == (pytest.approx(-0.5), pytest.approx(0.5))
    assert mixed.verdict("rises") == "cannot be told"
    assert trend(table({(0, 1): 1, (1, 1): 2}), "layer", ["position"]).verdict("rises") == "cannot be told"


def test_three_places_tell_no_trend_however_many_groups_there_are():
    """What a layer has of its own is in all positions: their agreement is no evidence of an order."""
    rising = table({(layer, position): 10 * layer + 100 * position for layer in range(3) for position in range(9)})
    found = trend(rising, "layer", ["position"])
    assert (found.correlation, found.p_rises) == (pytest.approx(1), pytest.approx(1 / 6))
    assert found.verdict("rises") == "cannot be told"


def test_the_share_of_orders_is_that_of_a_loop_over_them():
    values = {(0, 1): 3.0, (1, 1): 1, (2, 1): 4, (3, 1): 5, (0, 2): 2, (1, 2): 2, (3, 2): 8, (4, 2): 7}
    found = trend(table(values), "layer", ["position"])
    rhos = []
    for order in itertools.permutations(range(5)):
        groups = [([order[la] for la, p in values if p == at], [v for (_, p), v in values.items() if p == at])
                  for at in (1, 2)]  # fmt: skip
        rhos.append(np.mean([pd.Series(at).corr(pd.Series(bits), method="spearman") for at, bits in groups]))
    assert found.correlation == pytest.approx(rhos[0])
    assert found.p_rises == pytest.approx(np.mean(np.array(rhos) >= rhos[0] - 1e-9))
    assert found.p_falls == pytest.approx(np.mean(np.array(rhos) <= rhos[0] + 1e-9))


@pytest.mark.parametrize("shared", [0.0, 0.9])
@pytest.mark.parametrize("layers", [3, 4, 5, pytest.param(9, marks=pytest.mark.slow)])
def test_random_orders_seldom_agree(layers: int, shared: float):
    """In 400 random tables; `shared` is how much of a value is the layer's, in all positions."""
    generator, said = np.random.default_rng(layers), []
    for _ in range(400):
        own = generator.normal(size=(layers, 1))
        bits = math.sqrt(shared) * own + math.sqrt(1 - shared) * generator.normal(size=(layers, 6))
        cells = {(layer, position): 50 + bits[layer, position] for layer in range(layers) for position in range(6)}
        said.append(trend(table(cells), "layer", ["position"]).verdict("rises"))
    limit = stats.binom.ppf(0.999, 400, 0.05)  # what 400 draws of a rate of 5 % seldom exceed
    assert said.count("agrees") <= limit
    assert said.count("contradicts") <= limit


def test_a_rise_in_noise_agrees():
    generator = np.random.default_rng(0)
    cells = {(layer, position): 10 * layer + generator.normal(0, 8) for layer in range(9) for position in range(6)}
    assert trend(table(cells), "layer", ["position"]).verdict("rises") == "agrees"


@pytest.mark.parametrize(
    ("fvu", "converged", "said"),
    [
        (lambda layer: 0.2 + 0.02 * layer, True, "agrees"),
        (lambda layer: 0.001 + 0.004 * layer, True, "agrees"),
        (lambda layer: 0.2 + 0.1 * layer, True, "cannot be told (held-out FVU is 0.20 to 0.60: bits can be compared"),
        (lambda layer: 0.92 + 0.01 * layer, True, "cannot be told (held-out FVU is up to 0.96: such a code does not"),
        (lambda _: 0.2, False, "cannot be told (20 of 20 trainings did not converge)"),
        (lambda _: 0.2, None, "cannot be told (it is not known whether 20 of 20 trainings converged)"),
    ],
)
def test_bits_are_compared_at_like_fvu_and_of_trainings_that_converged(
    fvu: Callable[[int], float], converged: bool | None, said: str
):
    rising = table({(layer, position): 10 * layer for layer in range(5) for position in (1, 2)})
    rising = rising.assign(fvu_val=rising["layer"].map(fvu), converged=converged)
    found = trend(rising, "layer", ["position"])
    assert found.told("rises").startswith(said)
    assert found.verdict("rises") == said.partition(" (")[0]


def test_what_needs_no_like_fvu_is_compared_without():
    rising = table({(layer, 1): 10 * layer for layer in range(5)})
    rising = rising.assign(fvu_val=rising["layer"] / 10)
    assert trend(rising, "layer", ["position"], like_fvu=False).verdict("rises") == "agrees"
    assert first_of(5) == "cannot be told (so here, and in one of 5 random orders)"
    assert first_of(20) == "agrees"


def test_saturation_is_the_share_of_the_last_step():
    even = table({(0, position): position for position in (0, 1, 2, 3, 4)})
    assert last_share(even, "position", ["layer"]) == pytest.approx(1 / 4)
    flat = table({(0, 1): 0, (0, 2): 80, (0, 4): 99, (0, 8): 100})
    assert last_share(flat, "position", ["layer"]) == pytest.approx(0.01)
    assert math.isnan(last_share(table({(0, 1): 3, (0, 2): 2, (0, 4): 1}), "position", ["layer"]))


def test_a_claim_says_on_how_much_it_rests():
    rising = table({(layer, 1): 10 * layer for layer in range(4)})
    line = claim("bits rise with depth", trend(rising, "layer", ["position"]), "rises", "layer", rising)
    assert line == (
        "Paper: bits rise with depth. Here: agrees; rank correlation of bits with layer +1.00 (mean of 1 groups, +1.00 "
        "to +1.00; n = 10, seeds 0, 1)."
    )


@pytest.mark.parametrize(
    ("bits", "more", "said"),
    [
        ((0, 60, 90, 97, 99), {}, "agrees; the last step of position makes 2% of the whole rise (an even rise over 4"),
        ((0, 10, 20, 30, 40), {}, "contradicts; the last step of position makes 25% of the whole rise"),
        ((0, 30, 60, 82, 100), {}, "unclear; the last step of position makes 18% of the whole rise"),
        ((0, 60, 90, 97, 99), {"converged": False}, "cannot be told (10 of 10 trainings did not converge); the last"),
        ((40, 30, 20, 10, 0), {}, "cannot be told (it falls); n = 10, seeds 0, 1."),
        ((0, 40, 10, 30, 20), {}, "cannot be told (whether it rises cannot be told); the last step of position makes"),
        ((9, 9, 9, 9, 9), {}, "cannot be told (the values are the same at each position); n = 10, seeds 0, 1."),
        ((0, 9), {}, "cannot be told (no layer has runs at three positions); n = 10, seeds 0, 1."),
    ],
)
def test_saturation_has_its_verdict_first(bits: tuple[float, ...], more: dict[str, bool], said: str):
    runs = table({(0, position): value for position, value in enumerate(bits)}).assign(**more)
    share = last_share(runs, "position", ["layer"])
    line = saturation_claim(trend(runs, "position", ["layer"]), share, "position", 4, runs)
    assert line.startswith(f"Paper: and saturates. Here: {said}")
    assert line.endswith("n = 10, seeds 0, 1." if math.isnan(share) else "4 steps: 25%; n = 10, seeds 0, 1).")


def test_a_claim_without_runs_to_compare_says_so():
    """The first runs of a sweep: of three layers and three positions, but not at one position or layer."""
    few = table({(0, 1): 5, (1, 2): 6, (2, 4): 7})
    line = claim("bits rise with depth", trend(few, "layer", ["position"]), "rises", "layer", few)
    assert line == (
        "Paper: bits rise with depth. Here: cannot be told (no position has runs at three layers); n = 10, seeds 0, 1."
    )
    unknown = trend(few.assign(entropy_bits=math.nan), "position", ["layer"])
    assert unknown.hindrance == "no layer has runs at three positions"
