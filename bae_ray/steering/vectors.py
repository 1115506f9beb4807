"""Steering vectors from two sets of prompts, from features, and from activations without an autoencoder.

Shapes: N prompts of a set, D d_in, F d_latent. All vectors are float64, in the language model's own units: strength 1
adds them as they are.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from bae_ray.analysis.features import evaluating, rows_at_once
from bae_ray.autoencoders import Autoencoder
from bae_ray.errors import InvalidInputError
from bae_ray.values import check_finite, check_type


def mean_latents(autoencoder: Autoencoder, x: Tensor) -> Tensor:
    """The mean latents [F] of activations [N, D]; for a binary autoencoder these are the firing rates.

    Raises what `encode` does, and `InvalidInputError` if there are no activations.
    """
    _check_set(x, "x")
    total = torch.zeros(autoencoder.d_latent, dtype=torch.float64)
    with torch.no_grad(), evaluating(autoencoder):
        for batch in x.split(rows_at_once(autoencoder)):
            total += autoencoder.encode(batch.to(autoencoder.mean.device)).double().sum(0).cpu()
    return total / len(x)


def latent_difference(autoencoder: Autoencoder, good: Tensor, bad: Tensor) -> Tensor:
    """h_D, [F]: mean latents of the good prompts' activations [N, D] minus those of the bad prompts (section 5.4)."""
    return mean_latents(autoencoder, good) - mean_latents(autoencoder, bad)


def largest(change: Tensor, kept: int | None) -> Tensor:
    """Keep the `kept` entries of largest absolute value of a change [F], set others to 0 (paper: 256). None: keep all.

    Among equal entries, frequent in differences of rates, the first are kept. Raises `InvalidInputError` if there are
    fewer latents.
    """
    if kept is None:
        return change.clone()
    if not 1 <= kept <= len(change):
        raise InvalidInputError(
            f"features to keep are {kept}: expected 1 to {len(change)}, the autoencoder's latents, or all of them."
        )
    chosen = change.abs().argsort(descending=True, stable=True)[:kept]
    return torch.zeros_like(change).index_copy(0, chosen, change[chosen])


def signs(change: Tensor) -> Tensor:
    """The sign of each entry of a change of latents [F]: the paper's released code adds these."""
    return change.sign()


def decoded(autoencoder: Autoencoder, change: Tensor) -> Tensor:
    """What a change of latents [F] adds to the reconstruction, [D]: change W_dec, times the autoencoder's scale.

    For a transcoder, it belongs to the target's cell. Raises `InvalidInputError` for another width, `NotFiniteError`.
    """
    if change.shape != (autoencoder.d_latent,):
        raise InvalidInputError(
            f"the change of latents is of shape {tuple(change.shape)}; this autoencoder takes [{autoencoder.d_latent}]."
        )
    check_finite(change, "the change of latents")
    changed = change.nonzero().squeeze(1)  # of a large dictionary, few rows in float64
    rows = autoencoder.latent_directions(changed.to(autoencoder.mean.device)).detach().cpu()
    return change[changed].double() @ rows * autoencoder.target_normalization[1].detach().double().cpu()


def of_features(autoencoder: Autoencoder, features: Sequence[int], value: float = 1.0) -> Tensor:
    """What the latents `features` add to the reconstruction at a value, [D].

    Raises `InvalidInputError` for a latent that the autoencoder does not have, no latents, or a value that is not
    finite.
    """
    check_features(features, autoencoder.d_latent)
    return of_values(autoencoder, dict.fromkeys(features, value))


def of_values(autoencoder: Autoencoder, values: Mapping[int, float]) -> Tensor:
    """What latents add to the reconstruction, each at its value, [D]. Raises what `of_features` does."""
    check_features([*values], autoencoder.d_latent)
    if wrong := [value for value in values.values() if not math.isfinite(value)]:
        raise InvalidInputError(f"a feature's value is {wrong[0]}: expected a finite number.")
    change = torch.zeros(autoencoder.d_latent, dtype=torch.float64)
    change[[*values]] = torch.tensor([*values.values()], dtype=torch.float64)
    return decoded(autoencoder, change)


def centroid_difference(good: Tensor, bad: Tensor) -> Tensor:
    """The mean of the good prompts' activations [N, D] minus that of the bad prompts, [D]."""
    _check_set(good, "good")
    _check_set(bad, "bad")
    return good.double().mean(0) - bad.double().mean(0)


def principal_component(x: Tensor, toward: Tensor) -> Tensor:
    """The first principal component of activations [N, D], of length 1, with the sign that points toward `toward` [D].

    Raises `InvalidInputError` if all activations are equal.
    """
    _check_set(x, "x")
    centred = x.double() - x.double().mean(0)
    if not centred.any():
        raise InvalidInputError(
            f"all {len(x)} activations are the same, so there is no principal component. Give others, or another layer."
        )
    component = torch.linalg.svd(centred, full_matrices=False).Vh[0]
    return -component if component @ toward.double() < 0 else component


def rescaled(vector: Tensor, norm: float) -> Tensor:
    """A vector [D] scaled to another length, such as the distance of two centroids.

    Raises `InvalidInputError` for a vector of zeros, which has no direction.
    """
    length = float(vector.norm())
    if not length > 0:
        raise InvalidInputError(
            "the vector is 0, so it cannot be rescaled: nothing differs between the two sets of prompts. Keep more "
            "features, or give other prompts."
        )
    return vector * (norm / length)


def check_features(features: Sequence[int], d_latent: int) -> None:
    """Raise `InvalidInputError` for a latent beyond `d_latent`, one given twice, or none given."""
    if not features:
        raise InvalidInputError(f"no feature is named: expected at least one of 0 to {d_latent - 1}.")
    if wrong := [feature for feature in features if not 0 <= feature < d_latent]:
        raise InvalidInputError(f"feature {wrong[0]} is out of range: expected 0 to {d_latent - 1}.")
    if len(set(features)) < len(features):
        raise InvalidInputError(f"features {tuple(features)}: expected each named once.")


def _check_set(x: Tensor, name: str) -> None:
    if x.ndim != 2 or not len(x):
        raise InvalidInputError(f"{name} is of shape {tuple(x.shape)}; expected [n, d], with one prompt at least.")
    check_type(x, name)
    check_finite(x, name)
