"""The best m features against plain Python: sorting, slicing and averaging."""

import math
import random
from statistics import mean

import numpy as np
import pytest

from bae_ray.experiments.comsem_table.comparison import best, ranked, running_mean

SCORES = [0.5, 1.0, 0.0, float("nan"), 0.25, 1.0, 0.75, 0.125]
KNOWN = sorted((score for score in SCORES if score == score), reverse=True)


def test_scores_are_ranked_and_averaged_from_the_best_on():
    assert ranked(SCORES).tolist() == KNOWN
    assert running_mean(SCORES).tolist() == pytest.approx([mean(KNOWN[:m]) for m in range(1, len(KNOWN) + 1)])


@pytest.mark.parametrize("m", range(1, 8))
def test_the_best_m_of_all(m: int):
    found = best(SCORES, len(KNOWN), m)
    assert found.mean == pytest.approx(mean(KNOWN[:m]))
    assert found.low <= found.mean <= found.high


def test_a_sample_stands_for_all():
    """With 3 of 12 features scored, each stands for four: the best 6 are the best one and half of the second."""
    assert best([0.9, 0.3, 0.6], 12, 6).mean == pytest.approx((4 * 0.9 + 2 * 0.6) / 6)
    assert best([0.9, 0.3, 0.6], 12, 1).mean == pytest.approx(0.9)
    assert best([0.9, 0.3, 0.6], 12, 12).mean == pytest.approx(0.6)


def test_the_interval_is_that_of_resampling():
    """Against a bootstrap written as a loop."""
    scores = [i / 24 for i in range(25)]
    generator = random.Random(0)
    means = sorted(mean(sorted(generator.choices(scores, k=25), reverse=True)[:10]) for _ in range(4000))
    found = best(scores, 25, 10)
    assert found.low == pytest.approx(means[100], abs=0.02)
    assert found.high == pytest.approx(means[3899], abs=0.02)


@pytest.mark.parametrize(("scores", "features", "m"), [([], 5, 2), ([1.0, 0.0], 2, 3), ([float("nan")], 1, 1)])
def test_there_is_no_mean_of_more_than_there_are(scores: list[float], features: int, m: int):
    assert all(map(math.isnan, best(scores, features, m)))


def test_many_replicates_at_a_time_or_few(monkeypatch: pytest.MonkeyPatch):
    scores = np.linspace(0, 1, 50)
    whole = best(scores, 50, 20)
    monkeypatch.setattr("bae_ray.experiments.comsem_table.comparison.SCORES_AT_ONCE", 3000)
    assert best(scores, 50, 20) == pytest.approx(whole)
