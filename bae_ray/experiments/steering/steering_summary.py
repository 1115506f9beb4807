"""The measured rows over seeds: means with intervals, what they are compared with, and the paper's claim."""

from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from bae_ray.activations.store import ActivationStore
from bae_ray.analysis.accuracy import accuracy, wilson
from bae_ray.autoencoders.architectures import every_architecture, find_architecture
from bae_ray.experiments.steering.config import SteeringConfig
from bae_ray.experiments.steering.preparation import Prepared
from bae_ray.experiments.steering.steering_units import CONTROLS, NONE
from bae_ray.experiments.steering.steering_worker import Asked

KEYS = ["layer", "method", "kept", "weights", "rescaled", "strength"]
MEASURES = {"whole": (0.0, 1.0), "among": (0.0, 1.0), "log_odds_change": (-np.inf, np.inf), "kl": (0.0, np.inf)}
"""What is averaged over seeds, and its possible range."""
ALL = "all"
PAPER = "the binary autoencoder's vector gives the best 0-shot accuracy"


class References(NamedTuple):
    """What accuracies are compared with; means over seeds."""

    model: str
    test: int
    calibration: int
    """Prompts of each set, the smallest number over seeds: those too long for the model are left out."""
    shots: int
    labels: int
    majority: float
    """Accuracy of always answering the tests' commonest label."""
    few_shot_among: float
    """Accuracy of the model on the calibration's prompts with demonstrations, among the labels."""
    few_shot_whole: float
    """The same over the whole vocabulary."""

    @property
    def chance(self) -> float:
        """Accuracy of guessing among the labels."""
        return 1 / self.labels


def references(config: SteeringConfig, prepared: Prepared, asked: dict[int, Asked]) -> References:
    """References of the tests and of the calibration's prompts."""
    labels = len(prepared.labels)
    stores = {seed: [ActivationStore.open(store) for store in (one.good, one.bad)] for seed, one in asked.items()}
    shown = [accuracy(good.predictions, labels) for good, _ in stores.values()]
    commonest = [max(np.bincount(one.answers)) / len(one.answers) for one in asked.values()]
    return References(
        prepared.source.name,
        config.test,
        min(store.manifest.n for both in stores.values() for store in both),
        config.input.k,
        labels,
        float(np.mean(commonest)),
        float(np.mean([one.label_accuracy for one in shown])),
        float(np.mean([one.full_accuracy for one in shown])),
    )


def with_changes(table: pd.DataFrame, found: References) -> pd.DataFrame:
    """The rows with the change of log-odds from no steering of the same seed, intervals over prompts, and chance."""
    plain = table[table["method"] == NONE].set_index("seed")["log_odds"]
    table = table.assign(
        kept=[ALL if pd.isna(kept) else str(int(kept)) for kept in table["kept"]],
        log_odds_change=table["log_odds"] - table["seed"].map(plain),
        chance=found.chance,
        n=found.test,
    )
    for measure in ("whole", "among"):
        ends = [wilson(share * found.test, found.test) for share in table[measure]]
        table[f"{measure}_low"], table[f"{measure}_high"] = map(list, zip(*ends, strict=True))
    return table


def over_seeds(table: pd.DataFrame) -> pd.DataFrame:
    """A row for each setting and strength: means with 95 % intervals over seeds (Student's t; NaN for one seed)."""
    rows: list[dict[str, object]] = []
    for key, runs in table.groupby(KEYS, sort=False):
        row: dict[str, object] = {**dict(zip(KEYS, key, strict=True)), "seeds": len(runs)}
        for measure, (least, most) in MEASURES.items():
            mean, half = mean_and_half(runs[measure].to_numpy(float))
            row |= {measure: mean, f"{measure}_low": max(least, mean - half), f"{measure}_high": min(most, mean + half)}
        rows.append(row)
    return pd.DataFrame(rows)


def mean_and_half(values: np.ndarray) -> tuple[float, float]:
    """The mean, and half of its 95 % interval by Student's t; NaN for a single value."""
    if len(values) < 2:
        return float(values.mean()), float("nan")
    spread = float(values.std(ddof=1)) / len(values) ** 0.5
    return float(values.mean()), float(stats.t.ppf(0.975, len(values) - 1)) * spread


def label_of(method: str) -> str:
    """What tables and pictures call a method."""
    return find_architecture(method).label if method in every_architecture() else method


def compare(table: pd.DataFrame, config: SteeringConfig) -> list[str]:
    """The paper's claim of Fig. 6 beside what was found, and the binary vector beside the controls.

    At each method's best strength, which is chosen on the tests: that favours all of them alike.
    """
    here = table[(table["layer"] == config.layer) & (table["weights"] == "values")]
    kept = ALL if config.kept is None else str(config.kept)
    lines: list[str] = []
    for rescaled, how in ((False, "vectors as decoded, as the paper"), (True, "vectors of one length")):
        runs = here[
            (here["rescaled"] == rescaled) & (here["kept"].eq(kept) | ~here["method"].isin(every_architecture()))
        ]
        best = {str(method): _best(rows) for method, rows in runs.groupby("method") if method != NONE}
        binary = [name for name in best if name in every_architecture() and find_architecture(name).is_binary]
        plain = here[here["method"] == NONE].set_index("seed")["whole"]
        if not binary:
            continue
        mine = best.pop(binary[0])
        sparse = {name: one for name, one in best.items() if name in every_architecture()}
        said = f"{how}: {label_of(binary[0])} {mine.mean():.3f}, no steering {plain.mean():.3f}"
        if sparse:
            lines.append(f"Paper: {PAPER} (Fig. 6). Here, {said}, {_against(mine, sparse)}.")
        if controls := {name: one for name, one in best.items() if name in CONTROLS}:
            lines.append(f"Controls, {said}, {_against(mine, controls)}.")
    return lines


def _best(rows: pd.DataFrame) -> pd.Series:
    """Accuracies over the whole vocabulary by seed, at the strength where their mean is largest."""
    means = rows.groupby("strength")["whole"].mean()
    return rows[rows["strength"] == means.idxmax()].set_index("seed")["whole"]


def _against(mine: pd.Series, others: dict[str, pd.Series]) -> str:
    """Each of the others, and whether the difference of the same seeds is beyond chance."""
    parts: list[str] = []
    for name, theirs in others.items():
        mean, half = mean_and_half((mine - theirs).dropna().to_numpy(float))
        verdict = "better" if mean - half > 0 else "worse" if mean + half < 0 else "not told apart"
        parts.append(f"{label_of(name)} {theirs.mean():.3f} ({verdict}: {mean:+.3f} +- {half:.3f})")
    return ", ".join(parts)
