"""The spectrum and what is told of it alone, against other decompositions of the same matrix."""

import math

import numpy as np
import pytest
import scipy.linalg
import torch
from scipy.stats import entropy

from bae_ray.activations.rows import Rows
from bae_ray.analysis.effective_rank import effective_rank, participation_ratio
from bae_ray.analysis.matrix_entropy import matrix_entropy_bits
from bae_ray.analysis.spectrum import spectrum


def activations(n: int, d: int, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    mixed = generator.standard_normal((n, d)) @ generator.standard_normal((d, d))
    return (mixed + 100 * generator.standard_normal(d)).astype(np.float32)


@pytest.mark.parametrize(("n", "d"), [(200, 12), (9, 12), (5000, 4)])
def test_variances_are_squared_singular_values_at_unit_rms(n: int, d: int):
    x = activations(n, d)
    exact = x.astype(np.float64) - x.astype(np.float64).mean(0)
    singular = np.zeros(d)
    some = scipy.linalg.svdvals(exact)[: min(n - 1, d)]
    singular[: len(some)] = some
    pieces = [torch.from_numpy(part) for part in np.array_split(x, 3)]
    found = spectrum(Rows(pieces))
    assert found.scale == pytest.approx(np.sqrt(np.square(exact).mean()))
    np.testing.assert_allclose(found.variances, d * singular**2 / np.square(singular).sum(), rtol=1e-9, atol=1e-12)
    assert float(found.variances.sum()) == pytest.approx(d)
    assert (found.variances == 0).sum() == max(0, d - (n - 1))

    coordinates = found.coordinates(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(coordinates.T @ coordinates / n, np.diag(found.variances), atol=1e-9)
    np.testing.assert_allclose(coordinates @ found.components.numpy().T * found.scale, exact, atol=1e-9 * 1e3)


def test_ranks_and_entropies_are_those_of_the_gram_matrix():
    x = activations(30, 50)
    exact = x.astype(np.float64) - x.astype(np.float64).mean(0)
    variances = spectrum(Rows([torch.from_numpy(x)])).variances
    gram = exact @ exact.T
    gram /= np.trace(gram)
    eigenvalues = np.clip(np.linalg.eigvalsh(gram), 0, None)
    assert matrix_entropy_bits(variances) == pytest.approx(entropy(eigenvalues, base=2), rel=1e-9)
    assert matrix_entropy_bits(variances, 2) == pytest.approx(-math.log2(np.square(gram).sum()), rel=1e-9)
    assert matrix_entropy_bits(variances, 3) == pytest.approx(-math.log2(np.trace(gram @ gram @ gram)) / 2, rel=1e-9)
    assert matrix_entropy_bits(variances, 1 + 1e-6) == pytest.approx(matrix_entropy_bits(variances), abs=1e-4)
    assert participation_ratio(variances) == pytest.approx(1 / np.square(gram).sum(), rel=1e-9)

    shares = np.linalg.svd(exact, compute_uv=False)
    shares = shares[:-1] / shares[:-1].sum()  # the mean takes one away
    naive = math.exp(-sum(share * math.log(share) for share in shares.tolist()))
    assert effective_rank(variances) == pytest.approx(naive, rel=1e-9)


def test_equal_variances_are_as_many_directions_as_there_are():
    for number in (1, 2, 7, 64):
        variances = torch.tensor([0.3] * number + [0.0] * 5)
        assert effective_rank(variances) == pytest.approx(number)
        assert participation_ratio(variances) == pytest.approx(number)
        assert matrix_entropy_bits(variances) == pytest.approx(math.log2(number))
        assert matrix_entropy_bits(variances, 2) == pytest.approx(math.log2(number))


def test_where_nothing_varies_there_is_nothing_to_tell():
    found = spectrum(Rows([torch.full((51, 3), 1.1)]))
    assert (found.scale, found.variances.tolist()) == (0.0, [0.0, 0.0, 0.0])
    assert found.coordinates(torch.full((2, 3), 1.1)).abs().max() < 1e-12
    for measure in (effective_rank, participation_ratio, matrix_entropy_bits):
        assert math.isnan(measure(found.variances))
