import numpy as np
import pytest

from bae_ray.experiments.more_bit.activity import Rates, firing_figure, histogram


@pytest.mark.parametrize("n_tokens", [3, 50, 100_000])
def test_every_feature_is_in_the_histogram_once(n_tokens: int):
    counts = np.concatenate([[0] * 5, [1, n_tokens], np.random.default_rng(0).integers(1, n_tokens + 1, 200)])
    rates = counts / n_tokens
    found = histogram(rates, n_tokens)
    for i, (low, high) in enumerate(zip(found.edges[:-1], found.edges[1:], strict=True)):
        assert found.counts[i] == sum(low <= rate < high for rate in rates)
    assert found.dead == 5
    assert found.counts.sum() + found.dead == len(rates)
    assert found.dense == sum(10 * count > n_tokens for count in counts)


def test_the_picture_says_how_many_are_dead_and_dense():
    rates = Rates(np.array([0.0, 0.0, 0.5, 0.01]), np.array([0.0, 0.02, 0.2, 0.3]))
    figure = firing_figure({4: {"BAE": rates}, 8: {"BAE": rates}}, 100, 10)
    legends = [axes.get_legend_handles_labels()[1] for axes in figure.axes]
    fires, selected = ["BAE: 2 of 4 dead, 1 dense"], ["BAE: 1 of 4 dead, 2 dense"]
    assert legends == [fires, fires, selected, selected]
    assert [axes.get_title() for axes in figure.axes] == ["Layer 4", "Layer 8", "", ""]
