import pytest
import torch

from bae_ray.analysis.independent_components import independent_components


def drawn(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def mixed(sources: torch.Tensor, width: int) -> torch.Tensor:
    """The sources [N, K] along K directions that are not at right angles, [N, D], around a mean."""
    directions = torch.randn(sources.shape[1], width, generator=drawn(1))
    return sources @ directions + torch.randn(width, generator=drawn(2))


@pytest.mark.parametrize(
    "sources",
    [
        torch.randint(0, 2, (4000, 12), generator=drawn(0)).float(),
        (torch.rand(4000, 12, generator=drawn(0)) < 0.1).float(),
        (torch.rand(4000, 12, generator=drawn(0)) < 0.2).float(),  # kurtosis of a Gaussian
        (torch.rand(4000, 12, generator=drawn(0)) < torch.linspace(0.05, 0.5, 12)).float(),
        torch.rand(4000, 12, generator=drawn(0)),
        torch.empty(4000, 12).exponential_(generator=drawn(0)),
    ],
    ids=["fair", "rare", "a fifth", "all rates", "uniform", "exponential"],
)
def test_independent_sources_are_found_up_to_order_sign_and_scale(sources: torch.Tensor):
    x = mixed(sources, 30)
    mean, directions = independent_components(x, 30, drawn(0))
    assert directions.shape == (30, 12)
    found = (x - mean) @ directions
    assert torch.allclose(found.T @ found / len(x), torch.eye(12), atol=1e-3)
    correlation = torch.corrcoef(torch.cat([found, sources], 1).T)[:12, 12:].abs()
    assert correlation.amax(1).min() > 0.98
    assert len(set(correlation.argmax(1).tolist())) == 12


def test_many_fair_bits_are_found_among_a_hundred_samples_for_each():
    sources = torch.randint(0, 2, (13_000, 128), generator=drawn(0)).float()
    x = sources @ torch.linalg.qr(torch.randn(160, 128, generator=drawn(1))).Q.T
    mean, directions = independent_components(x, 160, drawn(0))
    correlation = torch.corrcoef(torch.cat([(x - mean) @ directions, sources], 1).T)[:128, 128:].abs()
    assert correlation.amax(1).min() > 0.98
    assert len(set(correlation.argmax(1).tolist())) == 128


def test_as_many_as_asked_for_or_as_the_samples_tell():
    x = torch.randn(100, 50, generator=drawn(0)) * torch.linspace(3, 0.1, 50)
    mean, directions = independent_components(x, 5, drawn(0))
    assert directions.shape == (50, 5)
    # They span the principal components of largest variance.
    axes = torch.linalg.svd(x - mean, full_matrices=False).Vh[:5].T
    part = axes @ (axes.T @ directions)
    assert torch.allclose(part, directions, atol=1e-3)
    assert independent_components(x, 50, drawn(0)).directions.shape == (50, 5)


def test_activations_without_spread_have_one_component():
    mean, directions = independent_components(torch.ones(8, 3), 3, drawn(0))
    assert directions.shape == (3, 1)
    assert bool(mean.isfinite().all() & directions.isfinite().all())
