"""TwoNN on sets of known dimension, and against another library and the definition."""

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from bae_ray.activations.rows import Rows
from bae_ray.analysis import intrinsic_dimension as module
from bae_ray.analysis.intrinsic_dimension import intrinsic_dimension

RECORDED = [(0, 300, 3, 30, 2.8359571470610945), (1, 500, 5, 5, 5.36612364192192), (2, 200, 8, 40, 6.2812882110706525)]
"""Seed, samples, dimension, width, and what scikit-dimension 0.5.0 finds: `skdim.id.TwoNN().fit(x).dimension_`."""


def of(x: np.ndarray, seed: int = 0) -> float:
    return intrinsic_dimension(Rows([torch.from_numpy(x.astype(np.float32))]), seed)


def turned(x: np.ndarray, d: int, generator: np.random.Generator) -> np.ndarray:
    """The points in d dimensions, away from 0."""
    basis, _ = np.linalg.qr(generator.standard_normal((d, d)))
    return x @ basis[: x.shape[1]] + 1


@pytest.mark.parametrize("dimension", [1, 2, 5])
def test_a_cube_and_a_sphere_have_their_dimension_wherever_they_lie(dimension: int):
    generator = np.random.default_rng(dimension)
    cube = generator.random((2000, dimension))
    ball = generator.standard_normal((2000, dimension + 1))
    sphere = ball / np.linalg.norm(ball, axis=1, keepdims=True)
    for points in (cube, sphere):
        assert of(turned(points, 24, generator)) == pytest.approx(dimension, rel=0.08)


@pytest.mark.parametrize(("seed", "n", "dimension", "d", "expected"), RECORDED)
def test_it_is_what_scikit_dimension_finds(seed: int, n: int, dimension: int, d: int, expected: float):
    generator = np.random.default_rng(seed)
    x = generator.standard_normal((n, dimension)) @ generator.standard_normal((dimension, d))
    assert of(x) == pytest.approx(expected, rel=1e-4)  # activations are float32


@given(st.integers(4, 40), st.integers(1, 4), st.integers(0, 10**6))
def test_it_is_the_slope_of_the_authors_line(n: int, d: int, seed: int):
    x = np.random.default_rng(seed).standard_normal((n, d)).astype(np.float32).astype(np.float64)
    assume(min(math.dist(x[i], x[j]) for i in range(n) for j in range(i)) > 1e-4)
    ratios = []
    for i in range(n):
        first, second = sorted(math.dist(x[i], x[j]) for j in range(n) if j != i)[:2]
        ratios.append(second / first)
    kept = sorted(ratios)[: int(n * 0.9)]
    points = [(math.log(ratio), -math.log(1 - (place + 1) / n)) for place, ratio in enumerate(kept)]
    slope, *_ = np.linalg.lstsq(np.array([[x] for x, _ in points]), np.array([y for _, y in points]))
    assert of(x) == pytest.approx(slope.item(), rel=1e-4)


def test_the_same_state_with_other_rounding_counts_once():
    generator = np.random.default_rng(0)
    x = turned(generator.random((600, 3)), 30, generator)
    rounded = x[generator.integers(0, 600, 900)] * (1 + 5e-8 * generator.standard_normal((900, 30)))
    expected = of(x)
    assert of(np.concatenate([x, rounded])) == pytest.approx(expected, rel=1e-3)
    assert of(np.concatenate([x, x])) == pytest.approx(expected, rel=1e-6)
    assert expected == pytest.approx(3, rel=0.15)


def test_of_many_samples_a_selection_is_taken(monkeypatch: pytest.MonkeyPatch):
    x = np.random.default_rng(3).random((3000, 2))
    whole = of(x)
    monkeypatch.setattr(module, "MOST_ROWS", 1000)
    monkeypatch.setattr(module, "DISTANCES_AT_ONCE", 1000 * 300)
    some = of(x)
    assert some == of(x)
    assert some != of(x, seed=1)
    assert some != whole
    assert some == pytest.approx(2, rel=0.15)


def test_too_few_samples_have_no_dimension():
    assert math.isnan(of(np.zeros((5, 2))))
    assert math.isnan(of(np.repeat([[0.0, 0.0], [1.0, 0.0]], 6, axis=0)))
    lattice = np.stack(np.meshgrid(np.arange(8.0), np.arange(8.0)), -1).reshape(-1, 2)
    assert math.isnan(of(lattice)), "each has several nearest ones"
