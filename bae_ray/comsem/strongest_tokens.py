"""A feature's strongest tokens, each with its neighbours and the magnitudes of all of them."""

from typing import NamedTuple

import numpy as np
import torch

from bae_ray.activations.rows import Rows
from bae_ray.analysis.features import evaluating, rows_at_once
from bae_ray.autoencoders import Autoencoder
from bae_ray.comsem.examples import NO_TOKEN, Kept
from bae_ray.comsem.sentences import Sentences


class Strongest(NamedTuple):
    """One of a feature's strongest tokens."""

    text: int
    """Number of the sentence in the evaluation set."""
    pieces: list[str]
    """The token and its neighbours, as pieces of the sentence."""
    values: list[float]
    """The feature's magnitude on each piece; NaN where the evaluation set leaves the token out."""
    at: int
    """Index of the token among the pieces."""


@torch.no_grad()
def strongest(
    autoencoder: Autoencoder, rows: Rows, sentences: Sentences, kept: Kept, features: list[int], around: int
) -> dict[int, list[Strongest]]:
    """The strongest tokens of these features. Reads only the activations of these tokens and their neighbours."""
    windows = [
        (feature, sentences.window(int(token), around))
        for feature in features
        for token in kept.tokens[feature]
        if token != NO_TOKEN
    ]
    wanted = np.array([row for _, window in windows for row in window.rows], dtype=np.int64)
    of = np.repeat(
        np.array([feature for feature, _ in windows], dtype=np.int64), [len(window.rows) for _, window in windows]
    )
    values = np.full(len(wanted), np.nan, dtype=np.float32)
    order = np.argsort(wanted, kind="stable")
    order = order[(wanted[order] >= 0) & (wanted[order] < len(rows))]
    needed = np.unique(wanted[order])
    at_once, device = rows_at_once(autoencoder), autoencoder.mean.device
    with evaluating(autoencoder):
        for start in range(0, len(needed), at_once):
            batch = needed[start : start + at_once]
            magnitudes = autoencoder.magnitudes(rows.take(torch.from_numpy(batch)).to(device))
            here = order[slice(*np.searchsorted(wanted[order], [batch[0], batch[-1] + 1]))]
            row = torch.from_numpy(np.searchsorted(batch, wanted[here])).to(device)
            values[here] = magnitudes[row, torch.from_numpy(of[here]).to(device)].float().cpu().numpy()
    found: dict[int, list[Strongest]] = {feature: [] for feature in features}
    start = 0
    for feature, window in windows:
        end = start + len(window.rows)
        found[feature].append(Strongest(window.text, window.pieces, values[start:end].tolist(), window.at))
        start = end
    return found
