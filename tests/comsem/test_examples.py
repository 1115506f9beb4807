"""Step 1 of ComSem against the pseudocode of the paper's Algorithm 1, written out below as it stands there."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bae_ray.activations.rows import Rows
from bae_ray.autoencoders import Autoencoder, BAEConfig, ReLUConfig, TopKConfig, build_autoencoder
from bae_ray.comsem.config import ExamplesConfig
from bae_ray.comsem.examples import NO_TOKEN, Collected, collect, random_sets, top_k
from bae_ray.errors import InvalidInputError


def naive_top_k(row: list[float], k: int) -> list[int]:
    """As the released code does it: a stable sort of all values, the largest first."""
    return sorted(range(len(row)), key=lambda j: row[j], reverse=True)[:k]


def chosen_by(magnitudes: torch.Tensor, k: int, skip_zero: bool = False) -> list[list[int]]:
    """Columns that `top_k` chooses in each row."""
    found: list[list[int]] = [[] for _ in magnitudes]
    for row, column in zip(*top_k(magnitudes, k, skip_zero), strict=True):
        found[int(row)].append(int(column))
    return [sorted(columns) for columns in found]


def listed(kept_tokens: np.ndarray) -> list[list[int]]:
    return [[int(token) for token in row if token != NO_TOKEN] for row in kept_tokens]


def naive_lists(magnitudes: list[list[float]], k: int, n_features: int) -> list[list[int]]:
    found: list[list[int]] = [[] for _ in range(n_features)]
    for i, row in enumerate(magnitudes):
        for j in naive_top_k(row, k):
            found[j].append(i)
    return found


def test_released_codes_selection(golden: dict[str, Any]):
    expected = golden["comsem_topk"]
    found: dict[str, list[int]] = {}
    for i, features in enumerate(chosen_by(torch.tensor(golden["burstiness_eps1e-6"]), expected["k"])):
        for j in features:
            found.setdefault(str(j), []).append(i)
    assert found == expected["samples_per_feature"]


def test_released_codes_selection_from_its_weights(
    golden: dict[str, Any], set_released_weights: Callable[[Autoencoder, dict[str, Any]], None]
):
    """The whole way: the released autoencoder, its prior over the samples, burstiness, examples of each feature."""
    expected = golden["comsem_topk"]
    bae = build_autoencoder(BAEConfig(d_in=golden["d_in"], d_latent=golden["d_latent"], gradient="release")).eval()
    set_released_weights(bae, golden["bae_state_dict"])
    x = torch.tensor(golden["x"])
    bae.prior.copy_(bae.encode(x).mean(0))
    config = ExamplesConfig(k=expected["k"], n_interpret=20, n_test=28)
    kept = collect(bae, Rows([x]), config).examples.kept()
    found = {str(j): tokens for j, tokens in enumerate(listed(kept.tokens)) if tokens}
    assert found == expected["samples_per_feature"]


@given(st.lists(st.lists(st.sampled_from([-1.0, 0.0, 0.5, 2.0]), min_size=7, max_size=7), min_size=1, max_size=5),
       st.integers(1, 9))  # fmt: skip
def test_ties_go_to_the_lower_index(rows: list[list[float]], k: int):
    assert chosen_by(torch.tensor(rows), k) == [sorted(naive_top_k(row, k)) for row in rows]


def test_zeros_are_left_out_on_demand():
    row = torch.tensor([[0.0, 3.0, 0.0, 1.0]])
    assert chosen_by(row, 3) == [[0, 1, 3]]
    assert chosen_by(row, 3, skip_zero=True) == [[1, 3]]


def test_numbers_that_are_none_are_refused():
    with pytest.raises(InvalidInputError, match="NaN or infinity"):
        top_k(torch.tensor([[1.0, float("nan")]]), 1)
    with pytest.raises(InvalidInputError, match="NaN or infinity"):
        top_k(torch.tensor([[1.0, float("inf"), 2.0]]), 3)


def untrained(architecture: str, d: int, n_latent: int, seed: int) -> Autoencoder:
    configs = {
        "bae": BAEConfig(d_in=d, d_latent=n_latent),
        "bits": BAEConfig(d_in=d, d_latent=2 * n_latent, bits_per_feature=2),
        "relu": ReLUConfig(d_in=d, d_latent=n_latent),
        "rescaled": ReLUConfig(d_in=d, d_latent=n_latent, standardize=True),
        "topk": TopKConfig(d_in=d, d_latent=n_latent, k=3),
    }
    autoencoder = build_autoencoder(configs[architecture]).eval()
    autoencoder.reset_parameters(torch.Generator().manual_seed(seed))
    return autoencoder


def naive_magnitudes(autoencoder: Autoencoder, architecture: str, x: Tensor) -> list[list[float]]:
    """Magnitudes from the latents, a token at a time."""
    latents = autoencoder.encode(x).detach()
    if architecture == "bae":
        prior = latents.mean(0)
        return [((row - prior).abs() + 1e-6).log2().tolist() for row in latents]
    if architecture == "bits":
        return [[(float(a) + 2 * float(b)) / 3 for a, b in row.reshape(-1, 2)] for row in latents]
    if architecture == "rescaled":
        mean, std = latents.double().mean(0), latents.double().std(0, correction=0)
        return [
            [
                float((value - m) / s) if s > 0 else 0.0
                for value, m, s in zip(row, mean.float(), std.float(), strict=True)
            ]
            for row in latents
        ]
    return latents.tolist()


@pytest.mark.parametrize("architecture", ["bae", "bits", "relu", "rescaled", "topk"])
@pytest.mark.parametrize("seed", range(3))
def test_algorithm_1_step_1(architecture: str, seed: int):
    """The lists D_S of every feature, in order, against the loop of the pseudocode."""
    from bae_ray.analysis.features import feature_statistics

    x = torch.randn(333, 6, generator=torch.Generator().manual_seed(100 + seed))
    autoencoder = untrained(architecture, 6, 24, seed)
    feature_statistics(autoencoder, x).set_reference(autoencoder)
    config = ExamplesConfig(k=4, n_interpret=3, n_test=5)
    kept = collect(autoencoder, Rows([x[:100], x[100:101], x[101:]]), config).examples.kept()
    expected = naive_lists(naive_magnitudes(autoencoder, architecture, x), 4, autoencoder.n_features)
    assert listed(kept.tokens) == [tokens[:8] for tokens in expected]
    assert kept.counts.tolist() == [len(tokens) for tokens in expected]


@pytest.mark.parametrize("order", ["first", "sampled"])
def test_parts_merged_in_any_order_are_the_whole(order: str):
    x = torch.randn(200, 6, generator=torch.Generator().manual_seed(0))
    autoencoder = untrained("relu", 6, 24, 0)
    config = ExamplesConfig(k=4, n_interpret=3, n_test=5, order=order, seed=3, top=4)  # pyright: ignore[reportArgumentType]
    whole = collect(autoencoder, Rows([x]), config)
    parts = [collect(autoencoder, Rows([x[a:b]]), config, a) for a, b in ((0, 30), (30, 150), (150, 200))]
    merged = Collected.empty(24, config)
    for part in (parts[2], parts[0], parts[1]):
        merged.merge(part)
    for one, other in zip(whole, merged, strict=True):
        for a, b in zip(one.kept(), other.kept(), strict=True):
            np.testing.assert_array_equal(a, b)


def test_samples_are_even_and_by_seed():
    """Every occurrence is as likely to be drawn as any other; another seed draws others."""
    x = torch.randn(2000, 6, generator=torch.Generator().manual_seed(1))
    autoencoder = untrained("relu", 6, 24, 1)

    def drawn(seed: int) -> list[list[int]]:
        config = ExamplesConfig(k=4, n_interpret=10, n_test=20, order="sampled", seed=seed)
        return listed(collect(autoencoder, Rows([x]), config).examples.kept().tokens)

    full = ExamplesConfig(k=4, n_interpret=1000, n_test=1000)
    everything = listed(collect(autoencoder, Rows([x]), full).examples.kept().tokens)
    assert drawn(0) == drawn(0)
    assert drawn(0) != drawn(1)
    ranks = [
        everything[feature].index(token) / (len(everything[feature]) - 1)
        for seed in range(5)
        for feature, tokens in enumerate(drawn(seed))
        for token in tokens
        if len(everything[feature]) > 100
    ]
    assert len(ranks) > 1000
    assert np.mean(ranks) == pytest.approx(0.5, abs=0.03)
    assert np.histogram(ranks, 4, (0, 1))[0] / len(ranks) == pytest.approx([0.25] * 4, abs=0.04)
    assert all(len(set(tokens)) == len(tokens) for tokens in drawn(0))


def test_strongest_are_the_largest_magnitudes():
    x = torch.randn(300, 6, generator=torch.Generator().manual_seed(2))
    autoencoder = untrained("relu", 6, 24, 2)
    config = ExamplesConfig(k=4, top=6)
    found = collect(autoencoder, Rows([x]), config)
    kept = found.strongest.kept()
    magnitudes = autoencoder.magnitudes(x).detach()
    for feature, tokens in enumerate(naive_lists(magnitudes.tolist(), 4, 24)):
        expected = sorted(tokens, key=lambda token: (-float(magnitudes[token, feature]), token))[:6]
        assert listed(kept.tokens)[feature] == expected
        np.testing.assert_array_equal(kept.magnitudes[feature, : len(expected)], magnitudes[expected, feature])


@settings(max_examples=30)
@given(st.lists(st.floats(-(2.0**100), 2.0**100, width=32, allow_subnormal=False), min_size=2, max_size=20))
def test_keys_sort_by_falling_magnitude(values: list[float]):
    from bae_ray.comsem.examples import _strongest_first

    magnitudes = np.array(values, dtype=np.float32)
    order = np.argsort(_strongest_first(magnitudes, np.arange(len(values))))
    expected = sorted(range(len(values)), key=lambda i: (-magnitudes[i], i))
    assert order.tolist() == expected


def test_memory_does_not_grow_with_tokens():
    """However many tokens there are, what is kept has the same size."""
    autoencoder = untrained("relu", 6, 24, 3)
    config = ExamplesConfig(k=4)
    sizes = set()
    for n in (50, 5000):
        kept = collect(autoencoder, Rows([torch.randn(n, 6)]), config)
        sizes.add(tuple(array.nbytes for one in kept for array in one.kept()))
    assert len(sizes) == 1


def test_more_latents_asked_for_than_there_are():
    with pytest.raises(InvalidInputError, match=r"examples\.k is 30.*24 features"):
        collect(untrained("relu", 6, 24, 0), Rows([torch.zeros(2, 6)]), ExamplesConfig(k=30))


def test_random_sets_have_no_token_twice():
    config = ExamplesConfig(n_interpret=3, n_test=4)
    sets = random_sets(9, 50, config)
    assert sets.shape == (50, 7)
    assert all(len(set(row)) == 7 for row in sets.tolist())
    assert set(sets.ravel().tolist()) == set(range(9))
    assert random_sets(5, 2, config).shape == (2, 5)
