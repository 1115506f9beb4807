"""Each method's vector against a few lines of numpy."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bae_ray.autoencoders import (
    Autoencoder,
    BAEConfig,
    GatedConfig,
    ReLUConfig,
    TopKConfig,
    build_autoencoder,
)
from bae_ray.errors import InvalidInputError, NotFiniteError
from bae_ray.steering import vectors
from bae_ray.steering.random_vectors import random_direction, random_features

D, F = 6, 12
GOOD = torch.randn(40, D, generator=torch.Generator().manual_seed(0)) * 50 + 70
BAD = torch.randn(30, D, generator=torch.Generator().manual_seed(1)) * 50 + 55


def built(config: Any) -> Autoencoder:
    """A random autoencoder of activations with a mean of 60 and a scale of 45."""
    autoencoder = build_autoencoder(config.model_copy(update={"d_in": D, "d_latent": F}))
    autoencoder.reset_parameters(torch.Generator().manual_seed(2))
    autoencoder.mean.fill_(60.0)
    autoencoder.scale.fill_(45.0)
    return autoencoder.eval()


def pre_activations(autoencoder: Autoencoder, x: Tensor) -> np.ndarray:
    W, b = autoencoder.W_enc.detach().double().numpy(), autoencoder.b_enc
    return (x.double().numpy() - 60) / 45 @ W + (0 if b is None else b.detach().double().numpy())


def top_3(z: np.ndarray) -> np.ndarray:
    out = np.zeros_like(z)
    for row, values in enumerate(z):
        for place in np.argsort(-values)[:3]:
            out[row, place] = values[place]
    return out


METHODS = {
    "bae": (BAEConfig(), lambda z: (z > 0).astype(float)),
    "relu": (ReLUConfig(), lambda z: np.maximum(z, 0)),
    "gated": (GatedConfig(threshold=0.1), lambda z: z * (z > 0.1)),
    "topk": (TopKConfig(k=3, nonnegative=False), top_3),
}


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("kept", [1, 4, F, None])
@pytest.mark.parametrize("signs", [False, True])
def test_vectors_of_latents(name: str, kept: int | None, signs: bool):
    config, activate = METHODS[name]
    autoencoder = built(config)
    change = vectors.largest(vectors.latent_difference(autoencoder, GOOD, BAD), kept)
    found = vectors.decoded(autoencoder, vectors.signs(change) if signs else change)

    h_good, h_bad = (activate(pre_activations(autoencoder, x)).mean(0) for x in (GOOD, BAD))
    h_d = h_good - h_bad
    for place in np.argsort(-np.abs(h_d), kind="stable")[F if kept is None else kept :]:
        h_d[place] = 0
    if signs:
        h_d = np.sign(h_d)
    expected = 45 * h_d @ autoencoder.W_dec.detach().double().numpy()
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-5)


def test_with_all_values_the_vector_is_the_difference_of_mean_reconstructions():
    """Also for several bits per feature, whose place values the directions hold."""
    for config in (BAEConfig(bits_per_feature=3), ReLUConfig()):
        autoencoder = built(config)
        with torch.no_grad():
            means = [autoencoder.decode(autoencoder.encode(x)).double().mean(0) for x in (GOOD, BAD)]
        found = vectors.decoded(autoencoder, vectors.latent_difference(autoencoder, GOOD, BAD))
        torch.testing.assert_close(found, means[0] - means[1], rtol=1e-5, atol=1e-4)


def test_vectors_of_single_features():
    autoencoder = built(ReLUConfig())
    rows = autoencoder.W_dec.detach().double().numpy()
    np.testing.assert_allclose(vectors.of_features(autoencoder, [5]).numpy(), 45 * rows[5], rtol=1e-6)
    found = vectors.of_features(autoencoder, [5, 0], -0.5)
    np.testing.assert_allclose(found.numpy(), -22.5 * (rows[5] + rows[0]), rtol=1e-6, atol=1e-6)


def test_centroids_and_principal_component():
    good, bad = GOOD.double().numpy(), BAD.double().numpy()
    difference = vectors.centroid_difference(GOOD, BAD)
    np.testing.assert_allclose(difference.numpy(), good.mean(0) - bad.mean(0), rtol=1e-6)

    pooled = np.concatenate([good, bad])
    values, columns = np.linalg.eigh(np.cov(pooled.T))
    expected = columns[:, values.argmax()]
    expected *= np.sign(expected @ (good.mean(0) - bad.mean(0)))
    for sign in (1, -1):
        found = vectors.principal_component(torch.cat([GOOD, BAD]), sign * difference)
        np.testing.assert_allclose(found.numpy(), sign * expected, rtol=1e-5, atol=1e-6)


def test_rescaled_to_another_length():
    vector = torch.tensor([3.0, -4.0], dtype=torch.float64)
    assert vectors.rescaled(vector, 10).tolist() == [6, -8]
    with pytest.raises(InvalidInputError, match="the vector is 0, so it cannot be rescaled"):
        vectors.rescaled(torch.zeros(2), 1)


def test_random_directions_are_of_that_norm_and_of_all_directions():
    generator = torch.Generator().manual_seed(0)
    drawn = torch.stack([random_direction(D, 7.0, generator) for _ in range(4000)])
    torch.testing.assert_close(drawn.norm(dim=1), torch.full((4000,), 7.0, dtype=torch.float64))
    assert drawn.mean(0).abs().max() < 5 * 7 / (D * 4000) ** 0.5
    torch.testing.assert_close(drawn.T @ drawn / 4000, torch.eye(D, dtype=torch.float64) * 49 / D, atol=0.7, rtol=0)
    again = random_direction(D, 7.0, torch.Generator().manual_seed(0))
    assert again.equal(drawn[0])


def test_random_features_are_others_with_the_same_numbers():
    change = torch.tensor([0.0, 2, 0, -3, 0, 0, 0, 1], dtype=torch.float64)
    seen: set[int] = set()
    for seed in range(50):
        drawn = random_features(change, torch.Generator().manual_seed(seed))
        assert sorted(drawn[drawn != 0].tolist()) == [-3, 1, 2]
        seen |= set(drawn.nonzero().squeeze(1).tolist())
    assert seen == {0, 2, 4, 5, 6}
    few = random_features(torch.tensor([1.0, 2, 3, 0]), torch.Generator().manual_seed(0))
    assert few[:3].tolist() == [0, 0, 0]
    assert few[3] in (1, 2, 3)
    with pytest.raises(InvalidInputError, match="4 of 4 latents change"):
        random_features(torch.ones(4), torch.Generator())


def test_bad_input_is_named():
    autoencoder = built(ReLUConfig())
    for features, message in (
        ([], "no feature is named"), ([12], "feature 12 is out of range: expected 0 to 11"), ([-1], "feature -1"),
        ([3, 3], "each named once"),
    ):  # fmt: skip
        with pytest.raises(InvalidInputError, match=message):
            vectors.of_features(autoencoder, features)
    with pytest.raises(InvalidInputError, match="value is nan"):
        vectors.of_features(autoencoder, [1], float("nan"))
    for kept in (0, 13):
        with pytest.raises(InvalidInputError, match=f"features to keep are {kept}: expected 1 to 12"):
            vectors.largest(torch.zeros(12), kept)
    with pytest.raises(InvalidInputError, match=r"expected \[n, d\], with one prompt"):
        vectors.centroid_difference(GOOD[:0], BAD)
    with pytest.raises(NotFiniteError, match=r"bad\[0, 2\] is nan"):
        vectors.centroid_difference(GOOD, torch.full((1, D), torch.nan).index_fill(1, torch.tensor([0, 1]), 0))
    with pytest.raises(InvalidInputError, match=r"shape \(7,\); this autoencoder takes \[12\]"):
        vectors.decoded(autoencoder, torch.zeros(7))
    with pytest.raises(InvalidInputError, match="all 3 activations are the same"):
        vectors.principal_component(torch.ones(3, D), torch.ones(D))
