"""Trends over scores: rank correlations by scipy, intervals in simulation."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from bae_ray.analysis.score_trend import mean, score_trend


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.integers(12, 40), st.integers(2, 8))
def test_the_correlation_is_spearmans(seed: int, n: int, levels: int):
    generator = np.random.default_rng(seed)
    scores, values, held = generator.integers(0, levels, n) / levels, generator.normal(size=n), generator.normal(size=n)
    scores[0], scores[1] = 0.0, 1.0
    found = score_trend(scores, values, held)
    assert found.correlation.value == pytest.approx(stats.spearmanr(scores, values)[0])
    ranks = [stats.rankdata(one) for one in (scores, values)]
    design = np.stack([np.ones(n), stats.rankdata(held)], 1)
    left = [rank - design @ np.linalg.lstsq(design, rank, rcond=None)[0] for rank in ranks]
    assert found.partial.value == pytest.approx(np.corrcoef(*left)[0, 1])
    assert found.correlation.low <= found.correlation.value <= found.correlation.high


def test_thirds_keep_equal_scores_together():
    scores = np.array([0.0] * 8 + [0.5] * 2 + [1.0] * 5)
    values = np.arange(15.0)
    found = score_trend(scores, values, values)
    assert found.low.value == pytest.approx(values[:8].mean())
    assert found.high.value == pytest.approx(values[10:].mean())
    assert found.difference.value == pytest.approx(found.high.value - found.low.value)


def test_equal_scores_tell_nothing():
    found = score_trend(np.zeros(20), np.arange(20.0), np.ones(20))
    assert math.isnan(found.correlation.value)
    assert math.isnan(found.high.value)
    assert found.correlation.verdict() == "cannot be told"


@pytest.mark.parametrize("n", [0, 1, 2, 9])
def test_few_features_have_no_interval(n: int):
    found = score_trend(np.arange(float(n)), np.arange(float(n)), np.ones(n))
    assert found.n == n
    assert math.isnan(found.correlation.low)
    assert found.correlation.verdict() == "cannot be told"


def test_unknown_values_are_left_out():
    scores, values = np.arange(14.0), np.arange(14.0)
    values[3], scores[5] = np.nan, np.nan
    found = score_trend(scores, values, np.arange(14.0) % 3)
    assert found.n == 12
    assert found.correlation.value == pytest.approx(1)
    assert found.correlation.verdict() == "agrees"
    assert score_trend(scores, -values, np.ones(14)).correlation.verdict() == "contradicts"
    assert score_trend(scores, values, np.ones(14)).partial.value == pytest.approx(1)  # a constant holds nothing


@pytest.mark.parametrize("rho", [0.0, 0.5])
def test_intervals_hold(rho: float):
    """Of 200 samples of 60 features, by the rank correlation of a Gaussian pair: 6/pi arcsin(rho/2)."""
    generator, held, means = np.random.default_rng(0), 0, 0
    truth = 6 / math.pi * math.asin(rho / 2)
    for _ in range(200):
        a, noise = generator.normal(size=(2, 60))
        b = rho * a + math.sqrt(1 - rho**2) * noise
        found = score_trend(a, b, generator.normal(size=60)).correlation
        held += found.low <= truth <= found.high
        over = mean(b)
        means += over.low <= 0 <= over.high
    assert held >= 180
    assert means >= 180
