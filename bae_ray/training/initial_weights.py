"""Initial weights of a binary autoencoder that are taken from its data.

Shapes: N samples, D d_in, F d_latent, K components, L latents that are used.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from bae_ray.activations.rows import Rows
from bae_ray.analysis.independent_components import independent_components
from bae_ray.analysis.quantisers import NUMBERS, Quantiser, quantiser
from bae_ray.autoencoders import Autoencoder
from bae_ray.seeds import stream

SAMPLES = 65_536
"""Largest number of samples used; of more, this many, evenly spaced."""
GAIN = 2.0
"""Pre-activation of a latent one standard deviation of its component away from its threshold."""
OFF = -1.0
"""Bias of a latent that is not used: its weights are 0, so that it never fires until it is revived."""
RISE = 1.1
"""Factor by which the price of a bit rises while more thresholds pay than there are latents."""


class Chosen(NamedTuple):
    """Latents, each of which fires where a component is at or above a threshold."""

    component: Tensor
    """Number of each one's component, [L]."""
    threshold: Tensor
    step: Tensor
    """By how much the component's level is higher there, [L]."""
    lowest: Tensor
    """Level of each component below all its thresholds, [K]; 0 where it has none."""


def sample_of(x: Rows, autoencoder: Autoencoder) -> Tensor:
    """Samples [N, D] to take the initial weights from, as they are trained on."""
    rows = torch.arange(len(x))
    if len(x) > SAMPLES:
        rows = torch.linspace(0, len(x) - 1, SAMPLES, dtype=torch.float64).round().long()
    return autoencoder.normalize(x.take(rows).to(autoencoder.mean.device))


@torch.no_grad()
def start_from_components(autoencoder: Autoencoder, x: Tensor, price: float, seed: int) -> int:
    """Make latents thresholds on independent components of x [N, D], as many as pay; return how many, at most F.

    A component gets the number of thresholds that minimises its remaining error plus `price` per bit (in mean squared
    error per dimension); none, if even one costs more than it explains. A component with two values, a bit, gets one.
    Dictionary rows are the components' directions times the step between levels. The remaining latents never fire,
    until `training.revive_every` revives them.
    """
    mean, directions = independent_components(x, x.shape[1], stream(seed, "components"))
    components = (x - mean) @ directions
    mixing = (x - mean).T @ components / len(x)
    chosen = _choose(components, mixing.square().mean(0), price, autoencoder.d_latent)
    used = len(chosen.component)
    columns = GAIN * directions[:, chosen.component]
    assert autoencoder.b_enc is not None
    for parameter in (autoencoder.W_enc, autoencoder.W_dec):
        parameter.zero_()
    autoencoder.b_enc.fill_(OFF)
    autoencoder.W_enc[:, :used] = columns
    autoencoder.b_enc[:used] = -GAIN * chosen.threshold - mean @ columns
    autoencoder.W_dec[:used] = chosen.step[:, None] * mixing.T[chosen.component]
    autoencoder.b_dec.copy_(mean + mixing @ chosen.lowest)
    return used


def _choose(components: Tensor, explained: Tensor, price: float, most: int) -> Chosen:
    """The thresholds that pay; `explained` [K] is the squared error per dimension that each component takes away.

    Where they are more than there are latents, the price rises until they are not.
    """
    quantisers = {some: quantiser(components, some) for some in NUMBERS}
    number = _numbers(quantisers, explained, price)
    while int(number.sum()) > most:
        price *= RISE
        number = _numbers(quantisers, explained, price)
    component: list[int] = []
    threshold, step, lowest = [], [], torch.zeros_like(explained)
    for one in number.nonzero().flatten().tolist():
        found = quantisers[int(number[one])]
        component += [one] * int(number[one])
        threshold.append(found.thresholds[:, one])
        step.append(found.levels[:, one].diff())
        lowest[one] = found.levels[0, one]
    empty = explained.new_zeros(0)
    return Chosen(
        torch.tensor(component, dtype=torch.int64, device=explained.device),
        torch.cat([empty, *threshold]),
        torch.cat([empty, *step]),
        lowest,
    )


def _numbers(quantisers: dict[int, Quantiser], explained: Tensor, price: float) -> Tensor:
    """How many thresholds of each component cost least, with the error that they leave, [K]."""
    best, number = explained.clone(), torch.zeros_like(explained, dtype=torch.int64)
    for some, found in quantisers.items():
        cost = explained * found.error + price * found.bits
        number = torch.where(cost < best, some, number)
        best = torch.minimum(cost, best)
    return number
