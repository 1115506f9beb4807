"""Measures of clusters against plain loops, their null, and their controls."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from bae_ray.analysis.cluster_controls import Pool, matched, shape, shuffled
from bae_ray.analysis.feature_clusters import NEAREST, auc, clustering, distances, neighbours, purity, silhouette

FEW = settings(max_examples=40, deadline=None)


def naive_distance(a: np.ndarray, b: np.ndarray) -> float:
    return math.sqrt(sum((float(p) - float(q)) ** 2 for p, q in zip(a, b, strict=True)))


def naive_purity(x: np.ndarray, active: np.ndarray, ids: np.ndarray | None, k: int) -> float:
    shares = []
    for i in np.flatnonzero(active):
        others = [j for j in range(len(x)) if j != i and (ids is None or ids[j] != ids[i])]
        nearest = sorted(others, key=lambda j: naive_distance(x[i], x[j]))[:k]
        shares.append(sum(bool(active[j]) for j in nearest) / len(nearest) if nearest else 0.0)
    return sum(shares) / len(shares)


def naive_silhouette(x: np.ndarray, active: np.ndarray) -> float:
    found = []
    for i in np.flatnonzero(active):
        near = [naive_distance(x[i], x[j]) for j in np.flatnonzero(active) if j != i]
        far = [naive_distance(x[i], x[j]) for j in np.flatnonzero(~active)]
        a, b = sum(near) / len(near), sum(far) / len(far)
        found.append((b - a) / max(a, b) if max(a, b) else 0.0)
    return sum(found) / len(found)


def naive_auc(values: np.ndarray, active: np.ndarray) -> float:
    wins = [(p > q) + 0.5 * (p == q) for p in values[active] for q in values[~active]]
    return sum(wins) / len(wins)


@st.composite
def labelled(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Activations, labels of two or more and not all, ids and projections of 5 to 40 tokens."""
    n = draw(st.integers(5, 40))
    generator = np.random.default_rng(draw(st.integers(0, 10_000)))
    active = np.zeros(n, dtype=bool)
    active[generator.permutation(n)[: draw(st.integers(2, n - 2))]] = True
    x = generator.normal(size=(n, draw(st.integers(1, 6)))) * 10 ** draw(st.integers(-3, 3)) + draw(st.integers(0, 99))
    ids = generator.integers(0, draw(st.integers(1, n)), n)
    values = draw(arrays(np.float64, n, elements=st.sampled_from([-2.0, 0.0, 1.0, 1.5])))
    return x, active, ids, values


@FEW
@given(labelled())
def test_the_measures_are_those_of_plain_loops(of: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]):
    x, active, ids, values = of
    k = min(NEAREST, int(active.sum()) - 1)
    found = clustering(distances(x), active[None], ids, values)
    assert found.purity[0] == pytest.approx(naive_purity(x, active, None, k), abs=1e-9)
    assert found.purity_beyond[0] == pytest.approx(naive_purity(x, active, ids, k), abs=1e-9)
    assert found.silhouette[0] == pytest.approx(naive_silhouette(x, active), abs=1e-6)
    assert found.auc[0] == pytest.approx(naive_auc(values, active), abs=1e-12)


def test_several_labellings_are_measured_as_each_is_by_itself():
    generator = np.random.default_rng(0)
    x, ids, values = generator.normal(size=(30, 3)), generator.integers(0, 9, 30), generator.normal(size=30)
    labels = np.array([generator.permutation(30) < 7 for _ in range(5)])
    together = clustering(distances(x), labels, ids, values)
    for i, one in enumerate(labels):
        alone = clustering(distances(x), one[None], ids, values)
        assert [of[i] for of in together] == pytest.approx([of[0] for of in alone])


def test_the_silhouette_is_that_of_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics", reason="comes with the extra umap")
    generator = np.random.default_rng(1)
    x, active = generator.normal(size=(60, 4)) + 1e3, generator.permutation(60) < 20
    expected = metrics.silhouette_samples(x, active)[active].mean()
    assert silhouette(distances(x), active[None])[0] == pytest.approx(expected)
    assert auc(x[:, 0], active[None])[0] == pytest.approx(metrics.roc_auc_score(active, x[:, 0]))


def test_tokens_far_from_the_origin_keep_their_distances():
    x = np.array([[1e6, 0.0], [1e6 + 1e-2, 0.0], [1e6, 3e-2]])
    assert distances(x)[0] == pytest.approx([0, 1e-2, 3e-2], rel=1e-3)


def test_a_token_with_too_few_neighbours_has_those_that_there_are():
    apart = np.array([[np.inf, 1.0, np.inf], [1.0, np.inf, np.inf], [np.inf, np.inf, np.inf]])
    labels = np.array([[True, True, True]])
    assert purity(neighbours(apart, 2), labels)[0] == pytest.approx(2 / 3)  # the third has none: nothing is pure


@FEW
@given(st.integers(0, 1000), st.integers(1, 8), st.integers(1, 50))
def test_shuffled_labels_stay_in_their_sentences(seed: int, sentences: int, n: int):
    generator = np.random.default_rng(seed)
    sentence, labels = generator.integers(0, sentences, n), generator.random((6, n)) < 0.4
    found = shuffled(labels, sentence, generator)
    for one in np.unique(sentence):
        here = sentence == one
        assert (found[:, here].sum(1) == labels[:, here].sum(1)).all()


def test_all_orders_within_a_sentence_are_as_likely():
    labels = np.repeat([[True, False, False, True, False]], 6000, 0)
    found = shuffled(labels, np.array([7, 7, 7, 2, 2]), np.random.default_rng(0))
    assert found.mean(0) == pytest.approx([1 / 3, 1 / 3, 1 / 3, 1 / 2, 1 / 2], abs=0.03)


@FEW
@given(st.integers(0, 1000), st.integers(2, 60), st.integers(1, 12))
def test_controls_are_inactive_and_have_the_keys_of_the_active(seed: int, n: int, kinds: int):
    generator = np.random.default_rng(seed)
    keys, active = generator.integers(0, kinds, n), generator.random(n) < 0.3
    for drawn in matched(keys, active, 5, generator):
        assert not (drawn & active).any()
        for key in range(kinds):
            expected = min((active & (keys == key)).sum(), (~active & (keys == key)).sum())
            assert (drawn & (keys == key)).sum() == expected


def pool(seed: int, apart: float, by_id: float = 0.0, n: int = 240) -> Pool:
    """Sentences of 12 tokens; active ones lie `apart` from the others, tokens of an id `by_id` from those of others."""
    generator = np.random.default_rng(seed)
    ids = generator.integers(0, 6, n)
    active = ((ids < 2) & (generator.random(n) < 0.5)) if by_id else generator.random(n) < 0.2
    centres = generator.normal(size=(6, 8))
    x = generator.normal(size=(n, 8)) + by_id * centres[ids]
    x[:, 0] += apart * active
    frequency = np.bincount(ids)[ids]
    return Pool(x, active, np.arange(n) // 12, ids, frequency, x[:, 0])


def test_what_clusters_is_told_from_what_does_not():
    found = shape(pool(0, apart=6.0), 199, 10, 0)
    assert found.active.purity.value > 0.9
    assert found.active.purity.p == found.active.silhouette.p == found.active.auc.p == pytest.approx(1 / 200)
    assert found.active.auc.value > 0.99
    for control in (found.frequency, found.identity):
        assert abs(control.purity.value - control.purity.chance) < 0.08
        assert abs(control.auc.value - 0.5) < 0.1


def test_a_cluster_of_token_identity_is_told_by_its_control():
    """Half of two words' tokens are active, and all tokens of a word lie together: nothing is the feature's own."""
    found = shape(pool(1, apart=0.0, by_id=8.0), 199, 20, 0)
    active, identity = found.active, found.identity
    assert active.purity.p == pytest.approx(1 / 200)
    gain, of_ids = (one.purity.value - one.purity.chance for one in (active, identity))
    assert of_ids > 0.5 * gain > 0.1
    assert active.purity_beyond.value < 0.3


def test_p_is_uniform_where_labels_are_random():
    """At most 5 % of random features look clustered at 5 %: 200 of them, whose binomial spread is 1.5 %."""
    ps: dict[str, list[float]] = {"purity": [], "purity_beyond": [], "silhouette": [], "auc": []}
    for seed in range(200):
        found: Any = shape(pool(seed + 10, apart=0.0, n=96), 39, 1, seed).active
        for name, values in ps.items():
            values.append(getattr(found, name).p)
    for name, values in ps.items():
        assert np.mean(np.array(values) <= 0.05) < 0.1, name
        assert np.mean(values) == pytest.approx(0.5, abs=0.1), name


def test_a_feature_of_one_token_has_no_shape():
    few = pool(0, apart=0.0)
    active = np.zeros(len(few.active), dtype=bool)
    active[3] = True
    found = shape(few._replace(active=active), 19, 3, 0)
    assert found.active.tokens == 1
    assert math.isnan(found.active.purity.value)
    assert found.identity.tokens == 1


def test_the_same_seed_gives_the_same_shape():
    assert shape(pool(0, apart=1.0), 49, 5, 3) == shape(pool(0, apart=1.0), 49, 5, 3)
    assert shape(pool(0, apart=1.0), 49, 5, 3) != shape(pool(0, apart=1.0), 49, 5, 4)
