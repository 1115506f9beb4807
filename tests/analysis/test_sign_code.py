"""Signs of principal components: a naive loop, and a Gaussian source, of which all is known."""

import math

import numpy as np
import pytest
import torch

from bae_ray.activations.rows import Rows
from bae_ray.analysis.reached import Reached, first_at
from bae_ray.analysis.sign_code import sign_codes
from bae_ray.analysis.spectrum import spectrum


def codes_of(train: np.ndarray, heldout: np.ndarray) -> list[Reached]:
    given = [Rows([torch.from_numpy(part)]) for part in (train, heldout)]
    return sign_codes(spectrum(given[0]), *given)


def test_bits_and_fvu_are_those_of_a_naive_code():
    generator = np.random.default_rng(0)
    mixing = generator.standard_normal((5, 5))
    train, heldout = ((np.exp(generator.standard_normal((n, 5))) @ mixing).astype(np.float32) for n in (70, 31))
    found = codes_of(train, heldout)
    assert len(found) == 6
    exact, unseen = train.astype(np.float64), heldout.astype(np.float64)
    mean = exact.mean(0)
    _, _, directions = np.linalg.svd(exact - mean, full_matrices=False)
    for k in range(6):
        x_hat, bits = np.tile(mean, (len(unseen), 1)), 0.0
        for direction in directions[:k]:
            seen, here = (exact - mean) @ direction, (unseen - mean) @ direction
            levels = {side: seen[(seen >= 0) == side].mean() for side in (False, True)}
            x_hat += np.array([[levels[bool(value >= 0)]] for value in here]) * direction
            rate = float((np.concatenate([seen, here]) >= 0).mean())
            bits -= rate * math.log2(rate) + (1 - rate) * math.log2(1 - rate)
        fvu = np.square(unseen - x_hat).sum() / np.square(unseen - unseen.mean(0)).sum()
        assert found[k] == (pytest.approx(bits, abs=1e-9), pytest.approx(fvu, rel=1e-9))


def test_of_a_gaussian_source_each_sign_explains_two_over_pi():
    x = np.random.default_rng(1).standard_normal((40_000, 4)).astype(np.float32) * [4, 3, 2, 1]
    found = codes_of(x[:20_000].astype(np.float32), x[20_000:].astype(np.float32))
    for k, squares in enumerate([0, 16, 25, 29, 30]):
        assert found[k].fvu == pytest.approx(1 - squares / 30 * 2 / math.pi, abs=0.01)
        assert found[k].bits == pytest.approx(k, abs=1e-3)
    assert found[-1].fvu == pytest.approx(1 - 2 / math.pi, abs=0.01)


def test_components_that_do_not_vary_have_no_sign():
    x = np.random.default_rng(2).standard_normal((50, 2)).astype(np.float32)
    flat = np.concatenate([x, x[:, :1], np.ones((50, 1), np.float32)], 1)
    assert len(codes_of(flat, flat)) == 3
    assert len(codes_of(flat[:2], flat)) == 2, "two samples differ in one direction"
    same = codes_of(flat, np.repeat(flat[:1], 4, axis=0))
    assert all(math.isnan(code.fvu) for code in same)
    assert math.isnan(first_at(same, 0.5).bits)


def test_the_first_code_with_the_fvu_is_taken_or_the_nearest():
    codes = [Reached(0, 1.0), Reached(1, 0.6), Reached(2, 0.45), Reached(3, 0.5), Reached(9, 0.445)]
    assert first_at(codes, 1.2) == (0, 1.0)
    assert first_at(codes, 0.6) == (1, 0.6)
    assert first_at(codes, 0.5) == (2, 0.45)
    for fvu in (0.445, 0.1):
        assert first_at(codes, fvu) == (2, 0.45), "seven bits more gain next to nothing"
    assert math.isnan(first_at([], 0.5).bits)
    few = [Reached(0, 1.0), Reached(1, 0.008), Reached(2, 0.0)]
    assert first_at(few, 0.003) == (2, 0.0), "at a small FVU, .008 is another one"
    assert first_at(few, 0.008) == (1, 0.008)
