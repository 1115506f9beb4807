"""How often a model answers prompts with the right label."""

from typing import NamedTuple

import numpy as np
import pandas as pd

Z_95 = 1.959964


class Accuracy(NamedTuple):
    """Accuracies in [0, 1] over the prompts of a store."""

    n: int
    label_accuracy: float
    """The right label is the likeliest of the labels."""
    label_low: float
    """Ends of its 95 % interval (Wilson)."""
    label_high: float
    full_accuracy: float
    """The right label's first token is the likeliest of the whole vocabulary."""
    full_low: float
    full_high: float
    chance: float
    """Accuracy of guessing among the labels."""
    majority: float
    """Accuracy of always answering the most frequent label."""


def accuracy(predictions: pd.DataFrame, n_labels: int) -> Accuracy:
    """Accuracies of `ActivationStore.predictions`, whose labels are 0 to n_labels - 1 (the paper's Fig. 7)."""
    n = len(predictions)
    label = int((predictions["predicted"] == predictions["label"]).sum())
    full = int((predictions["predicted_token"] == predictions["label_token"]).sum())
    majority = int(predictions["label"].value_counts().max())
    return Accuracy(n, label / n, *wilson(label, n), full / n, *wilson(full, n), 1 / n_labels, majority / n)


def wilson(hits: float, n: float) -> tuple[float, float]:
    """The 95 % score interval of a proportion (Wilson 1927)."""
    p = hits / n
    centre = (p + Z_95**2 / (2 * n)) / (1 + Z_95**2 / n)
    half = Z_95 / (1 + Z_95**2 / n) * float(np.sqrt(p * (1 - p) / n + Z_95**2 / (4 * n**2)))
    return max(0.0, centre - half), min(1.0, centre + half)
