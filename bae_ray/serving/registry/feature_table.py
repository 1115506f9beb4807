"""The features of an encoder as a list to look through: how often each fires, and what ComSem found of it."""

import logging
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from safetensors import safe_open

from bae_ray.autoencoders.checkpoint import WEIGHTS_FILE
from bae_ray.autoencoders.losses import bernoulli_entropy
from bae_ray.report.published_cards import CARDS_FILE, read_cards
from bae_ray.serving.registry.entry import Entry

Order = Literal["index", "score", "rate", "bits"]
BINS = 40
"""Bins of the histogram of firing rates."""
LEAST_RATE = 1e-4
"""Rates below it are in the first bin."""

log = logging.getLogger("ray.serve")
Numbers = np.ndarray[Any, np.dtype[np.float64]]


class FeatureTable(NamedTuple):
    """All features of an encoder."""

    rates: Numbers | None
    """Firing rates [F]; None where they are not known, or where several bits make one feature."""
    bits: Numbers | None
    """Entropy [F] of each by its rate, in bits."""
    cards: Mapping[int, dict[str, Any]]
    """What pages show of those that ComSem has looked at."""
    about: Mapping[str, Any]
    """ComSem's summary and judge; empty where it has looked at none."""

    def found(self, words: str, n: int) -> "np.ndarray[Any, Any]":
        """Indices of the features whose explanation or index holds all of the words, in any order; without, all n."""
        wanted = words.casefold().split()
        if not wanted:
            return np.arange(n)
        told = ((index, f"{index} {card['explanation'] or ''}".casefold()) for index, card in self.cards.items())
        named = [index for index, text in told if all(word in text for word in wanted)]
        if len(wanted) == 1 and wanted[0].isdecimal() and int(wanted[0]) < n:
            named.append(int(wanted[0]))
        return np.array(sorted({*named}), np.int64)

    def sorted(self, indices: "np.ndarray[Any, Any]", order: Order) -> "np.ndarray[Any, Any]":
        """Indices in an order: the largest first, the unknown last; `index` is as they are."""
        if order == "index":
            return indices
        if order == "score":
            scores = (self.cards.get(int(index), {}).get("score") for index in indices)
            values = np.array([np.nan if score is None else score for score in scores], np.float64)
        else:
            known = self.rates if order == "rate" else self.bits
            if known is None:
                return indices
            values = known[indices]
        return indices[np.argsort(-values, kind="stable")]  # NaN is last

    def histogram(self) -> tuple[list[float], list[int]]:
        """Edges [BINS + 1] and counts [BINS] of the firing rates, of equal widths on a logarithmic axis."""
        if self.rates is None:
            return [], []
        edges = np.geomspace(LEAST_RATE, 1.0, BINS + 1)
        counts, _ = np.histogram(self.rates.clip(LEAST_RATE, 1.0), edges)
        return edges.tolist(), counts.tolist()


def read_features(entry: Entry) -> FeatureTable:
    """The features of an encoder that is not broken; those of the last few encoders are kept.

    Raises `OSError` and `SafetensorError`. Cards that cannot be used are logged, and left out.
    """
    cards = entry.folder / CARDS_FILE
    assert entry.config is not None
    single = entry.n_features == entry.config.widths()[1]
    return _read(entry.folder, entry.key, single, cards.stat().st_mtime_ns if cards.exists() else 0)


@lru_cache(maxsize=8)
def _read(folder: Path, key: str, single: bool, _changed: int) -> FeatureTable:
    with safe_open(folder / WEIGHTS_FILE, framework="pt") as file:
        prior = file.get_tensor("prior").double()
    cards, about = {}, {}
    try:
        cards, about = read_cards(folder)
    except Exception as error:  # a file of another version, or a damaged one, can raise anything
        log.error(f"encoder {key}: {CARDS_FILE} cannot be used: {type(error).__name__}: {error}.")
    if not single or not prior.any():
        return FeatureTable(None, None, cards, about)
    return FeatureTable(prior.numpy(), bernoulli_entropy(prior).numpy(), cards, about)
